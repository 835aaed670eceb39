"""The speed of loading: our training samples beside torchvision's, through the same kind of loader, in turns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from ..backbones import InputError
from ..backbones.errors import unknown
from . import speed
from .data.sampling import Order
from .data.stream import TrainingStream
from .data.transforms import Transform, Transforms
from .data_peer import BACKENDS, PEERS, ReferenceStream
from .memory import keep_freed_memory
from .settings import Data
from .sources import coco_files, open_split


@dataclass(frozen=True)
class Case:
    """What is measured: `samples` of the training split, again in each of `repeats`, that a head with `keys` gets."""

    data: Data
    keys: Sequence[str]
    transforms: Transforms
    batch_size: int
    samples: int
    repeats: int
    seed: int = 0

    def __post_init__(self) -> None:
        if self.keys[0] != "boxes":
            raise InputError("torchvision's pipeline is for boxes and masks; choose a head that learns these")
        if self.transforms.preset not in PEERS:
            raise unknown("preset that torchvision has too", self.transforms.preset, PEERS)
        counts = {key: getattr(self, key) for key in ("batch_size", "samples", "repeats")}
        if min(counts.values()) < 1:
            raise InputError(f"{counts}: each must be at least 1")


@dataclass(frozen=True)
class Contestant:
    """A pipeline by its name; `stream[position]` is pixels (3, H, W) and a target."""

    name: str
    stream: Dataset[Any]


@dataclass(frozen=True)
class Rate:
    """Seconds of each pass over `samples` samples, and what was in one on average: objects, and millions of pixels."""

    name: str
    seconds: tuple[float, ...]
    samples: int
    objects: float
    megapixels: float

    @property
    def images_per_second(self) -> tuple[float, ...]:
        return tuple(self.samples / seconds for seconds in self.seconds)

    @property
    def median(self) -> float:
        return median(self.images_per_second)


# --- the pipelines ---------------------------------------------------------------------------------------------------


def contestants(case: Case) -> list[Contestant]:
    """Return torchvision's pipeline with each of its backends, and ours, on the same images in the same order."""
    files = [file for file in coco_files(case.data) if file.split == "train"]
    if len(files) != 1:
        raise InputError(
            f"the training split has {len(files)} files in COCO's format; torchvision's pipeline takes one"
        )
    images = open_split(case.data, "train", case.keys).images
    # Others would be the less work, and torchvision's wrapper fails on them.
    with_objects = (i for i, image in enumerate(images) if len(image.targets(("labels",))["labels"]))
    chosen = list(islice(with_objects, case.samples))
    if not chosen:
        raise InputError(f"{files[0].annotations} has no image with objects to learn")
    transform = Transform(case.transforms)
    order = Order(len(images), case.seed, factors=np.isin(np.arange(len(images)), chosen).astype(float))
    references = [
        Contestant(
            f"torchvision, {backend}",
            ReferenceStream(
                files[0].annotations,
                files[0].images,
                keys=case.keys,
                transforms=PEERS[case.transforms.preset](transform.settings),
                backend=backend,
                order=order,
                ids={i: images[i].id for i in chosen},
            ),
        )
        for backend in BACKENDS
    ]
    ours = TrainingStream(images, transform, case.seed, target_keys=case.keys, order=order)
    return [*references, Contestant("vertebra", ours)]


# --- measuring -------------------------------------------------------------------------------------------------------


class Passes:
    """Batches of positions: each time that it is gone through, the next ones of the stream."""

    def __init__(self, samples: int, batch_size: int) -> None:
        self.samples, self.batch_size = samples, batch_size
        self.start = 0

    def __iter__(self) -> Iterator[list[int]]:
        positions = range(self.start, self.start + self.samples)
        self.start = positions.stop
        for i in range(0, self.samples, self.batch_size):
            yield list(positions[i : i + self.batch_size])


def measure(case: Case, models: Sequence[Contestant], workers: int) -> list[Rate]:
    """Return the rates of all contestants.

    Each goes once unmeasured over the images, which warms the cache of files and starts the workers; then they take
    turns, so that whatever else the machine does meets all of them.
    """
    keep_freed_memory()  # as `train` does on the CPU
    loaders = [_loader(contestant.stream, case, workers) for contestant in models]
    torch.manual_seed(case.seed)
    found = [_contents(loader) for loader in loaders]
    turns = [[_seconds(loader) for loader in loaders] for _ in range(case.repeats)]
    return [
        Rate(contestant.name, seconds, case.samples, *one)
        for contestant, seconds, one in zip(models, zip(*turns, strict=True), found, strict=True)
    ]


def _loader(stream: Dataset[Any], case: Case, workers: int) -> DataLoader[Any]:
    return DataLoader(
        stream,
        batch_sampler=Passes(case.samples, case.batch_size),  # any iterable of lists will do
        num_workers=workers,
        collate_fn=list,
        worker_init_fn=_alike,
        persistent_workers=workers > 0,  # else starting them would count
    )


def _alike(_: int) -> None:
    """Let each worker of all contestants be as those of training are."""
    import cv2

    cv2.setNumThreads(0)
    keep_freed_memory()


def _contents(loader: DataLoader[Any]) -> tuple[float, float]:
    """Return how many objects and millions of pixels a sample has on average."""
    objects, pixels = [], []
    for batch in loader:
        for sample in batch:
            if isinstance(sample, InputError):
                raise sample
            objects.append(len(sample[1]["labels"]))
            pixels.append(sample[0].shape[1] * sample[0].shape[2])
    return sum(objects) / len(objects), sum(pixels) / len(pixels) / 1e6


def _seconds(loader: DataLoader[Any]) -> float:
    start = perf_counter()
    for _ in loader:
        pass
    return perf_counter() - start


@contextmanager
def threads(number: int) -> Iterator[None]:
    """Let torch and OpenCV use so many threads in this process."""
    import cv2

    before = cv2.getNumThreads()
    with speed.threads(number):
        cv2.setNumThreads(number)
        try:
            yield
        finally:
            cv2.setNumThreads(before)
