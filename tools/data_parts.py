"""Where the time of our training samples goes, by part."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

from .data.images import Reducible
from .data.sets import Sample
from .data.stream import TrainingStream
from .data.transforms import Transform, Transforms
from .data_speed import Case, Contestant

PARTS = ("read and decode", "annotations", "transform", "to tensors")


class Clock:
    """Adds up the seconds of calls by part; those of a call within another are the inner one's alone."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self.inner = 0.0

    def time(self, part: str, call: Callable[..., Any], *arguments: Any) -> Any:
        before, self.inner = self.inner, 0.0
        start = perf_counter()
        try:
            return call(*arguments)
        finally:
            spent = perf_counter() - start
            self.seconds[part] += spent - self.inner
            self.inner = before + spent


@dataclass(frozen=True)
class _TimedImage:
    """Stands for an image of a data set. Its methods are written out: protocols do not see those that are made up."""

    image: Any
    clock: Clock

    @property
    def id(self) -> int:
        return int(self.image.id)

    @property
    def path(self) -> Path:
        return Path(self.image.path)

    def read(self) -> Any:
        return self.clock.time("read and decode", self.image.read)

    def targets(self, keys: Sequence[str]) -> Any:
        return self.clock.time("annotations", self.image.targets, keys)


class _TimedReducible(_TimedImage):
    def size(self) -> Any:
        return self.image.size()

    def read_reduced(self, factor: int) -> Any:
        return self.clock.time("read and decode", self.image.read_reduced, factor)


class _TimedImages(Sequence[Any]):
    def __init__(self, images: Sequence[Sample], clock: Clock) -> None:
        self.images, self.clock = images, clock

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: Any) -> Any:
        image = self.clock.time("annotations", self.images.__getitem__, index)
        return (_TimedReducible if isinstance(image, Reducible) else _TimedImage)(image, self.clock)


class _TimedTransform(Transform):
    def __init__(self, settings: Transforms, clock: Clock) -> None:
        super().__init__(settings)
        self.clock = clock

    def __call__(self, *arguments: Any) -> Any:
        return self.clock.time("transform", super().__call__, *arguments)


def parts(case: Case, ours: Contestant) -> dict[str, float]:
    """Return the seconds that each part of our pipeline takes for the samples, in this process."""
    clock, stream = Clock(), ours.stream
    assert isinstance(stream, TrainingStream)
    images, transform = _TimedImages(stream.images, clock), _TimedTransform(case.transforms, clock)
    timed = TrainingStream(images, transform, stream.seed, target_keys=stream.target_keys, order=stream.order)
    for position in range(case.samples):
        clock.time("to tensors", timed.__getitem__, position)
    return clock.seconds
