"""The stream of training samples: the sample at each position is a pure function of (seed, position)."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ...backbones import InputError
from .sets import Array, Sample
from .transforms import Transform

Loaded = tuple[Tensor, dict[str, Tensor]]  # pixels (3, H, W) uint8, and targets


class TrainingStream(Dataset[Loaded | InputError]):
    """Endless shuffled passes over the images; position `i` gives the same sample whichever process asks for it.

    target_keys: what the targets hold beside `image_id`, of what the images' data set has.
    """

    def __init__(
        self,
        images: Sequence[Sample],
        transform: Transform,
        seed: int,
        *,
        target_keys: Sequence[str] = ("boxes", "labels"),
    ) -> None:
        self.images = images
        self.transform = transform
        self.seed = seed
        self.target_keys = tuple(target_keys)

    def __getitem__(self, position: int) -> Loaded | InputError:
        image = self.images[shuffled(self.seed, position, len(self.images))]
        sample_seed = int(np.random.SeedSequence([self.seed, position]).generate_state(1)[0])
        try:
            pixels, targets = self.transform(image.read(), image.targets(self.target_keys), sample_seed)
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


def shuffled(seed: int, position: int, count: int) -> int:
    """Return the index that stands at this position of an endless run of shuffled passes over `count` things."""
    lap, offset = divmod(position, count)
    return int(_order(seed, lap, count)[offset])


@lru_cache(maxsize=2)  # a batch may reach into the next lap
def _order(seed: int, lap: int, count: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.random.default_rng([seed, lap]).permutation(count)


def _load(pixels: Array, targets: Mapping[str, Array], image: Sample) -> Loaded:
    """Pixels (H, W, 3) -> (3, H, W), and targets as tensors with the image's id."""
    tensors = {key: torch.from_numpy(np.asarray(value, order="C")) for key, value in targets.items()}
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))), {
        **tensors,
        "image_id": torch.tensor(image.id),
    }


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
    """One thread a worker, and Ctrl-C is for the main process to answer."""
    import cv2

    cv2.setNumThreads(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
