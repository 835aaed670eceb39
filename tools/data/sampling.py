"""The order in which images are trained on: endless shuffled passes, in which some may come more often than others."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...backbones import InputError
from ...backbones.errors import unknown
from .coco import CocoSet
from .sets import Array, DataSet


@dataclass(frozen=True)
class Sampling:
    """How often images are shown, and which of them together.

    order: `shuffle` shows each once in a pass, `repeat_factor` those of classes that fewer than `threshold` of the
    images have more often (arXiv:1908.03195, section 4.2), `class_balanced` every class equally often, as if images
    without objects were a class. group_shapes: batches hold wide images only or tall ones only, which pads them less.
    """

    order: str = "shuffle"
    threshold: float = 0.001
    group_shapes: bool = False


@dataclass(frozen=True)
class Presence:
    """Which classes each of `images` images has: pairs of an image and a class, each pair once; classes from 1."""

    images: int
    image: Array
    label: Array

    def frequency(self) -> Array:
        """How many images have each class, (classes + 1,); 0 counts nothing."""
        return np.bincount(self.label)


def _repeat_factors(presence: Presence, threshold: float) -> Array:
    share = np.maximum(presence.frequency(), 1) / presence.images
    factors = np.ones(presence.images)
    np.maximum.at(factors, presence.image, np.sqrt(threshold / share)[presence.label])
    return factors


def _class_balance(presence: Presence, threshold: float) -> Array:
    weights = np.zeros(presence.images)
    np.add.at(weights, presence.image, 1 / presence.frequency()[presence.label])
    empty = np.setdiff1d(np.arange(presence.images), presence.image)
    weights[empty] = 1 / max(1, len(empty))
    return np.asarray(weights * presence.images / weights.sum())


# How often each image is to come in a pass, on average.
FACTORS: dict[str, Callable[[Presence, float], Array] | None] = {
    "shuffle": None,
    "repeat_factor": _repeat_factors,
    "class_balanced": _class_balance,
}


class Order:
    """The image at each position of endless passes over `count` images, a pure function of seed and position.

    factors: how often each comes in a pass on average, by default once; in one pass it comes that often rounded down or
    up. wide: which images are wider than high; then each batch, from position k * batch_size on, has one kind only, but
    for one batch a pass.
    """

    def __init__(
        self, count: int, seed: int, *, factors: Array | None = None, wide: Array | None = None, batch_size: int = 1
    ) -> None:
        self.count = count
        self.seed = seed
        self.wide = wide
        self.batch_size = batch_size
        # Rounded up, but for what adding them up loses, so that an image with a factor of 1 is in every pass.
        self.length = count if factors is None else math.ceil(float(factors.sum()) - 1e-6)
        if wide is not None:  # so that passes begin where batches do
            self.length = -(-self.length // batch_size) * batch_size
        uneven = factors is not None or self.length != count
        self.ends = np.cumsum(np.ones(count) if factors is None else factors) if uneven else None
        self._passes: dict[int, Array] = {}

    def __getitem__(self, position: int) -> int:
        number, offset = divmod(position, self.length)
        if number not in self._passes:
            # A batch may reach into the next pass, so two are kept.
            self._passes = {n: drawn for n, drawn in self._passes.items() if n == number - 1} | {
                number: self._draw(number)
            }
        return int(self._passes[number][offset])

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_passes": {}}

    def _draw(self, number: int) -> Array:
        rng = np.random.default_rng([self.seed, number])
        order = rng.permutation(np.arange(self.count, dtype=np.int32) if self.ends is None else self._uneven(rng))
        return order if self.wide is None else self._grouped(order, rng)

    def _uneven(self, rng: np.random.Generator) -> Array:
        """Return the images of a pass by points at even distances along the sum of their factors."""
        assert self.ends is not None
        points = (np.arange(self.length) + rng.random()) * (float(self.ends[-1]) / self.length)
        found = np.searchsorted(self.ends, points, side="right")
        return np.minimum(found, self.count - 1).astype(np.int32)

    def _grouped(self, order: Array, rng: np.random.Generator) -> Array:
        assert self.wide is not None
        wide = self.wide[order]
        kinds = [order[wide], order[~wide]]
        whole = [len(kind) // self.batch_size * self.batch_size for kind in kinds]
        full = [kind[:size] for kind, size in zip(kinds, whole, strict=True)]
        rest = [kind[size:] for kind, size in zip(kinds, whole, strict=True)]
        batches = np.concatenate([*full, *rest]).reshape(-1, self.batch_size)
        return np.asarray(rng.permutation(batches).reshape(-1))


def make_order(data: DataSet, settings: Sampling, seed: int, batch_size: int) -> Order:
    """Return the order that the settings say for a data set."""
    if settings.order not in FACTORS:
        raise unknown("data.sampling.order", settings.order, FACTORS)
    if not 0 < settings.threshold <= 1:
        raise InputError(f"data.sampling.threshold={settings.threshold}; it is a share of the images, above 0 up to 1")
    find = FACTORS[settings.order]
    factors = find(_presence(data), settings.threshold) if find else None
    wide = _wide(data) if settings.group_shapes else None
    return Order(len(data.images), seed, factors=factors, wide=wide, batch_size=batch_size)


def _presence(data: DataSet) -> Presence:
    if isinstance(data, CocoSet):
        keys, start, kinds = [], 0, len(data.categories) + 1
        for part in data.parts:
            learnt = part.learnt
            place = np.zeros(len(part.store), np.int64)
            place[part.rows] = np.arange(start, start + len(part.rows))
            keys.append(place[part.of_row[learnt]] * kinds + part.labelled[learnt])
            start += len(part.rows)
        image, label = np.divmod(np.unique(np.concatenate(keys)), kinds)
    else:
        try:
            label = np.array([int(sample.targets(("label",))["label"]) + 1 for sample in data.images])
        except InputError as error:
            raise InputError(
                f"data.sampling.order goes by the classes of images, which {data.source} gives with each pixel only; "
                "use shuffle"
            ) from error
        image = np.arange(len(label))
    return Presence(len(data.images), image, label)


def _wide(data: DataSet) -> Array:
    if not isinstance(data, CocoSet):
        raise InputError(
            f"data.sampling.group_shapes goes by sizes, which COCO's files record and {data.source} does not; "
            "set it to false"
        )
    sizes = np.concatenate([part.store.sizes[part.rows] for part in data.parts])
    return np.asarray(sizes[:, 1] >= sizes[:, 0])
