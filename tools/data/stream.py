"""The stream of training samples: the sample at each position is a pure function of (seed, position)."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ...backbones import InputError
from ...backbones.errors import unknown
from .coco import Image
from .transforms import Transform

Sample = tuple[Tensor, dict[str, Tensor]]

# What a model may learn from, by the name it has in targets.
TARGETS: dict[str, Callable[[Image], np.ndarray[Any, np.dtype[Any]]]] = {
    "boxes": lambda image: image.boxes,
    "labels": lambda image: image.labels,
    "masks": Image.masks,
}


class TrainingStream(Dataset[Sample | InputError]):
    """Endless shuffled passes over the images; position `i` gives the same sample whichever process asks for it.

    target_keys: what the targets hold beside `image_id`: `boxes`, `labels`, `masks` (for images that have them).
    """

    def __init__(
        self,
        images: Sequence[Image],
        transform: Transform,
        seed: int,
        *,
        target_keys: Sequence[str] = ("boxes", "labels"),
    ) -> None:
        for key in target_keys:
            if key not in TARGETS:
                raise unknown("target", key, TARGETS)
        self.images = images
        self.transform = transform
        self.seed = seed
        self.target_keys = tuple(target_keys)

    def __getitem__(self, position: int) -> Sample | InputError:
        image = self.images[shuffled(self.seed, position, len(self.images))]
        sample_seed = int(np.random.SeedSequence([self.seed, position]).generate_state(1)[0])
        try:
            objects = {key: TARGETS[key](image) for key in self.target_keys}
            pixels, objects = self.transform(image.read(), objects, sample_seed)
        except InputError as error:
            return error
        target = {key: torch.from_numpy(np.ascontiguousarray(value)) for key, value in objects.items()}
        return _pixels(pixels), {**target, "image_id": torch.tensor(image.id)}


class EvaluationImages(Dataset[Sample | InputError]):
    """Every image once, in order, as it is stored, with its id."""

    def __init__(self, images: Sequence[Image]) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Sample | InputError:
        image = self.images[index]
        try:
            return _pixels(image.read()), {"image_id": torch.tensor(image.id)}
        except InputError as error:
            return error


def shuffled(seed: int, position: int, count: int) -> int:
    """Return the index that stands at this position of an endless run of shuffled passes over `count` things."""
    lap, offset = divmod(position, count)
    return int(_order(seed, lap, count)[offset])


@lru_cache(maxsize=2)  # a batch may reach into the next lap
def _order(seed: int, lap: int, count: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.random.default_rng([seed, lap]).permutation(count)


def _pixels(pixels: np.ndarray[Any, np.dtype[np.uint8]]) -> Tensor:
    """(H, W, 3) -> (3, H, W), uint8."""
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))


def training_batches(
    stream: TrainingStream, batch_size: int, start: int, stop: int, workers: int
) -> Iterator[list[Sample]]:
    """Yield the batches of the steps from `start` to `stop`; a sample that cannot be read raises its InputError."""
    positions = [range(step * batch_size, (step + 1) * batch_size) for step in range(start, stop)]
    return _load(stream, positions, workers)


def evaluation_batches(images: Sequence[Image], batch_size: int, workers: int) -> Iterator[list[Sample]]:
    """Yield all images in order, in batches; the last may be smaller."""
    positions = [range(i, min(i + batch_size, len(images))) for i in range(0, len(images), batch_size)]
    return _load(EvaluationImages(images), positions, workers)


def _load(
    dataset: Dataset[Sample | InputError], positions: Sequence[Sequence[int]], workers: int
) -> Iterator[list[Sample]]:
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
    """One thread a worker, and Ctrl-C is for the main process to answer."""
    import cv2

    cv2.setNumThreads(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
