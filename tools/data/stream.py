"""The stream of training samples: the sample at each position is a pure function of (seed, position)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from multiprocessing import parent_process
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ...backbones import InputError
from .cutouts import Cutouts
from .sampling import Order
from .sets import Array, Sample
from .transforms import Transform
from .workers import Source, load_batches


class Target(dict[str, Any]):
    """What a model learns from in a sample: tensors, but `masks` are BoxedMasks.

    It comes from a worker as bytes. As shared memory, torch's way, each small tensor would take as long as to resize
    the image.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        return _target_of, (
            {key: value.numpy() if isinstance(value, Tensor) else value for key, value in self.items()},
        )


def _target_of(arrays: Mapping[str, Any]) -> Target:
    return Target(
        {key: torch.from_numpy(value) if isinstance(value, np.ndarray) else value for key, value in arrays.items()}
    )


Loaded = tuple[Tensor, dict[str, Any]]  # pixels (3, H, W) uint8, and a Target


class TrainingStream(Dataset[Loaded | InputError]):
    """Endless shuffled passes over the images; position `i` gives the same sample whichever process asks for it.

    target_keys: what the targets hold beside `image_id` and the sample's own `seed`, of what the images' data set has.
    order: which image stands at each position; by default each comes once in a pass.
    """

    def __init__(
        self,
        images: Sequence[Sample],
        transform: Transform,
        seed: int,
        *,
        target_keys: Sequence[str] = ("boxes", "labels"),
        order: Order | None = None,
    ) -> None:
        self.images = images
        self.transform = transform
        self.seed = seed
        self.target_keys = tuple(target_keys)
        transform.needed(self.target_keys)  # raises where the transforms cannot give them
        self.order = order or Order(len(images), seed)

    def __getitem__(self, position: int) -> Loaded | InputError:
        image = self.image(position)
        sample_seed = int(np.random.SeedSequence([self.seed, position]).generate_state(1)[0])
        try:
            pixels, targets = self.transform(image, self.target_keys, sample_seed, self.images)
        except InputError as error:
            return error
        return _load(pixels, {**targets, "seed": np.int64(sample_seed)}, image)

    def image(self, position: int) -> Sample:
        """Return the image at a position."""
        return self.images[self.order[position]]

    def describe(self, position: int) -> str:
        """Return which image is at a position, for messages."""
        return f"{_named(self.image(position))} (position {position} of the stream)"


class EvaluationImages(Dataset[Loaded | InputError]):
    """Every image once, in order, as it is stored, with its `image_id` and the targets of `keys`."""

    def __init__(self, images: Sequence[Sample], keys: Sequence[str] = ()) -> None:
        self.images = images
        self.keys = tuple(keys)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Loaded | InputError:
        image = self.images[index]
        try:
            return _load(image.read(), image.targets(self.keys), image)
        except InputError as error:
            return error

    def describe(self, index: int) -> str:
        """Return which image that is, for messages."""
        return _named(self.images[index])


def _named(image: Sample) -> str:
    return f"image {image.id}, {image.path}"


def _load(pixels: Array, targets: Mapping[str, Any], image: Sample) -> Loaded:
    """Pixels (H, W, 3) -> (3, H, W), and targets as tensors with the image's id."""
    import cv2

    planes = _empty((pixels.shape[2], *pixels.shape[:2]), pixels.dtype)
    cv2.split(pixels, list(planes.numpy()))  # into the planes; seven times as fast as to copy the transposed array
    tensors = {
        key: value.tensors() if isinstance(value, Cutouts) else torch.from_numpy(np.asarray(value, order="C"))
        for key, value in targets.items()
    }
    return planes, Target(tensors, image_id=torch.tensor(image.id))


def _empty(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Tensor:
    """Return a tensor to be filled; in a worker, in memory that the main process will share instead of a copy."""
    kind = torch.from_numpy(np.empty(0, dtype)).dtype
    if parent_process() is None:
        return torch.empty(shape, dtype=kind)
    storage = torch.UntypedStorage._new_shared(math.prod(shape) * dtype.itemsize)  # type: ignore[no-untyped-call]
    return torch.empty(0, dtype=kind).set_(storage).view(shape)


def training_batches(
    stream: TrainingStream, batch_size: int, start: int, stop: int, workers: int, share: tuple[int, int] = (0, 1)
) -> Iterator[list[Loaded]]:
    """Yield the batches of the steps from `start` to `stop`; a sample that cannot be read raises its InputError.

    share: (rank, count) of a process among those that divide each step's batch; it gets its part, in one piece.
    """
    rank, count = share
    if batch_size % count:
        raise InputError(
            f"optim.batch_size={batch_size} cannot be divided among {count} processes; choose a multiple of {count}"
        )
    part = batch_size // count
    firsts = (step * batch_size + rank * part for step in range(start, stop))
    return _batches(stream, [range(first, first + part) for first in firsts], workers)


def evaluation_batches(
    images: Sequence[Sample], batch_size: int, workers: int, keys: Sequence[str] = ()
) -> Iterator[list[Loaded]]:
    """Yield all images in order, in batches, with the targets of `keys`; the last batch may be smaller."""
    positions = [range(i, min(i + batch_size, len(images))) for i in range(0, len(images), batch_size)]
    return _batches(EvaluationImages(images, keys), positions, workers)


def _batches(
    source: Source[Loaded | InputError], positions: Sequence[Sequence[int]], workers: int
) -> Iterator[list[Loaded]]:
    finish = _pinned if torch.cuda.is_available() else list
    with closing(load_batches(source, positions, workers, finish)) as batches:
        for batch in batches:
            yield [_sound(sample) for sample in batch]


def _pinned(batch: list[Loaded | InputError]) -> list[Loaded | InputError]:
    """Return a batch in memory that a GPU copies from by itself."""
    return [sample if isinstance(sample, InputError) else _pinned_sample(*sample) for sample in batch]


def _pinned_sample(pixels: Tensor, target: Mapping[str, Any]) -> Loaded:
    return pixels.pin_memory(), Target({key: value.pin_memory() for key, value in target.items()})


def _sound(sample: Loaded | InputError) -> Loaded:
    if isinstance(sample, InputError):
        raise sample
    return sample
