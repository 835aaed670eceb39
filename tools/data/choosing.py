"""Data sets made of others: several joined, some of the classes, a share of the images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from ...backbones import InputError
from ...backbones.errors import unknown
from .coco import CocoSet, Part
from .sets import Array, Category


def joined(sets: Sequence[CocoSet]) -> CocoSet:
    """Return the images of all sets as one; categories of one name are one.

    The ids of the first set stay. Of the others, ids of images are moved up beyond those before, and a category that is
    new keeps its id where it is free.
    """
    ids: dict[str, int] = {}
    for data in sets:
        for category in data.categories:
            taken = category.id in ids.values()
            ids.setdefault(category.name, max(ids.values()) + 1 if taken else category.id)
    categories = tuple(sorted((Category(id, name) for name, id in ids.items()), key=lambda category: category.id))
    label_of = {category.name: label for label, category in enumerate(categories, start=1)}
    parts: list[Part] = []
    free = 0
    for data in sets:
        labels = np.array([0, *(label_of[category.name] for category in data.categories)])
        lowest, highest = (int(f(_ids(data))) for f in (np.min, np.max))
        shift = free - lowest if parts else 0
        free = highest + shift + 1
        parts += [replace(part, labels=labels[part.labels], shift=part.shift + shift) for part in data.parts]
    return replace(sets[0], categories=categories, parts=tuple(parts))


def _ids(data: CocoSet) -> Array:
    return np.concatenate([part.store.ids[part.rows] + part.shift for part in data.parts])


def choose_classes(data: CocoSet, names: Sequence[str], merged: Mapping[str, Sequence[str]]) -> CocoSet:
    """Return the set with these classes only, all where there are no names; images without any of them stay.

    merged: new classes and the categories that each is made of; it has the lowest of their ids.
    """
    known = {category.name: category.id for category in data.categories}
    new_name = {name: name for name in known}
    for name, parts in merged.items():
        for part in parts:
            if part not in known:
                raise unknown(f"category of {data.source} in data.merge.{name}", part, known)
            if new_name[part] != part:
                raise InputError(f"data.merge puts {part!r} into both {new_name[part]!r} and {name!r}; choose one")
            new_name[part] = name
    ids: dict[str, int] = {}
    for name, id in known.items():
        ids[new_name[name]] = min(id, ids.get(new_name[name], id))
    for name in names:
        if name not in ids:
            raise unknown(f"class of {data.source} in data.classes", name, ids)
    chosen = [Category(id, name) for name, id in ids.items() if not names or name in names]
    categories = tuple(sorted(chosen, key=lambda category: category.id))
    label_of = {category.name: label for label, category in enumerate(categories, start=1)}
    labels = np.array([0, *(label_of.get(new_name[category.name], 0) for category in data.categories)])
    parts_now = tuple(replace(part, labels=labels[part.labels]) for part in data.parts)
    return replace(data, categories=categories, parts=parts_now)


def split_off(data: CocoSet, shares: Mapping[str, float], seed: int, name: str) -> CocoSet:
    """Return the split `name` of images that are divided at random: `shares` for the others, the rest for train.

    Every split that has a share gets an image at least.
    """
    if min(shares.values()) < 0 or sum(shares.values()) >= 1:
        raise InputError(f"data.split={dict(shares)}; shares are 0 or more, and below 1 in sum: the rest is for train")
    if shares.get(name) == 0:
        raise InputError(f"the data set has no split {name!r}: data.split.{name} is 0")
    count = len(data.images)
    order = np.random.default_rng(seed).permutation(count)
    sizes = [max(1, round(share * count)) if share else 0 for share in shares.values()]
    if sum(sizes) >= count:
        raise InputError(f"{data.source} has {count} images, too few to divide as data.split={dict(shares)} says")
    *others, train = np.split(order, np.cumsum(sizes))
    return _at(data, np.sort(dict(zip(shares, others, strict=True)).get(name, train)))


def keep_empty(data: CocoSet, ratio: float) -> CocoSet:
    """Return the set with at most `ratio` times as many images without objects as with; drawn evenly."""
    counts = np.concatenate([_objects(part) for part in data.parts])
    empty, full = np.flatnonzero(counts == 0), np.flatnonzero(counts)
    most = round(ratio * len(full))
    kept = empty[np.arange(most) * len(empty) // most] if most < len(empty) else empty
    return _at(data, np.sort(np.concatenate([full, kept])))


def _objects(part: Part) -> Array:
    """Return how many objects to learn each image of the part has."""
    return np.asarray(np.bincount(part.of_row[part.learnt], minlength=len(part.store))[part.rows])


def _at(data: CocoSet, places: Array) -> CocoSet:
    """Return the set with the images at these places only, which ascend."""
    if not len(places):
        raise InputError(f"{data.source}: no images are left")
    ends = np.cumsum([len(part.rows) for part in data.parts])
    parts = [
        replace(
            part, rows=part.rows[places[(places >= end - len(part.rows)) & (places < end)] - (end - len(part.rows))]
        )
        for part, end in zip(data.parts, ends, strict=True)
    ]
    return replace(data, parts=tuple(part for part in parts if len(part.rows)))
