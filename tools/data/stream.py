"""The stream of training samples: the sample at each position is a pure function of (seed, position)."""

from __future__ import annotations

import math
import signal
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from ...backbones import InputError
from ..memory import keep_freed_memory
from .cutouts import Cutouts
from .sampling import Order
from .sets import Array, Sample
from .transforms import Transform


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

    target_keys: what the targets hold beside `image_id`, of what the images' data set has. order: which image stands at
    each position; by default each comes once in a pass.
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
        image = self.images[self.order[position]]
        sample_seed = int(np.random.SeedSequence([self.seed, position]).generate_state(1)[0])
        try:
            pixels, targets = self.transform(image, self.target_keys, sample_seed, self.images)
        except InputError as error:
            return error
        return _load(pixels, targets, image)


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
    if get_worker_info() is None:
        return torch.empty(shape, dtype=kind)
    storage = torch.UntypedStorage._new_shared(math.prod(shape) * dtype.itemsize)  # type: ignore[no-untyped-call]
    return torch.empty(0, dtype=kind).set_(storage).view(shape)


def training_batches(
    stream: TrainingStream, batch_size: int, start: int, stop: int, workers: int
) -> Iterator[list[Loaded]]:
    """Yield the batches of the steps from `start` to `stop`; a sample that cannot be read raises its InputError."""
    positions = [range(step * batch_size, (step + 1) * batch_size) for step in range(start, stop)]
    return _batches(stream, positions, workers)


def evaluation_batches(
    images: Sequence[Sample], batch_size: int, workers: int, keys: Sequence[str] = ()
) -> Iterator[list[Loaded]]:
    """Yield all images in order, in batches, with the targets of `keys`; the last batch may be smaller."""
    positions = [range(i, min(i + batch_size, len(images))) for i in range(0, len(images), batch_size)]
    return _batches(EvaluationImages(images, keys), positions, workers)


def _batches(
    dataset: Dataset[Loaded | InputError], positions: Sequence[Sequence[int]], workers: int
) -> Iterator[list[Loaded]]:
    loader: DataLoader[Any] = DataLoader(
        dataset,
        batch_sampler=positions,  # type: ignore[arg-type]  # any iterable of lists of positions will do
        num_workers=workers,
        collate_fn=list,
        worker_init_fn=_quiet_worker,
        pin_memory=torch.cuda.is_available(),
    )
    for batch in loader:
        for sample in batch:
            if isinstance(sample, InputError):  # raised here, so that it is not wrapped in a worker's traceback
                raise sample
        yield batch


def _quiet_worker(_: int) -> None:
    """One thread a worker, which keeps the memory of its samples, and Ctrl-C is for the main process to answer."""
    import cv2

    cv2.setNumThreads(0)
    keep_freed_memory()  # else each sample's pixels come as fresh pages: a fifth of the time
    signal.signal(signal.SIGINT, signal.SIG_IGN)
