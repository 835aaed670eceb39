"""What the images of a file's network were: RGB or BGR, and which mean and deviation they were normalised with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..contract import Preprocessing
from ..errors import InputError

Channels = Literal["rgb", "bgr"]
Three = tuple[float, float, float]
ORDERS: tuple[Channels, ...] = ("rgb", "bgr")

# Blue, green, red in 0..255. MSRA's weights have a deviation folded into their first convolution; Caffe2's ResNeXts,
# which stride in the 3x3, have ImageNet's.
_MEAN_OF_CAFFE = (103.53, 116.28, 123.675)
_STD_OF_CAFFE = (57.375, 57.12, 58.395)
_FOLDED = (1.0, 1.0, 1.0)


@dataclass(frozen=True)
class Pixels:
    """What the network of a file was given: the order of channels, mean and deviation in that order, and who says so.

    largest: of a pixel's values, 255 or 1.
    """

    channels: Channels
    mean: Three
    std: Three
    largest: float
    according_to: str

    @property
    def preprocessing(self) -> Preprocessing:
        """Return it for RGB images with values in [0, 1], once the first convolution takes those."""
        step = -1 if self.channels == "bgr" else 1
        mean, std = (tuple(x / self.largest for x in values[::step]) for values in (self.mean, self.std))
        return Preprocessing(mean, std)

    def __str__(self) -> str:
        mean, std = (" ".join(f"{x:g}" for x in values) for values in (self.mean, self.std))
        return f"{self.channels.upper()} in 0..{self.largest:g}, mean {mean}, std {std}; {self.according_to}"


@dataclass(frozen=True)
class Told:
    """As much of it as somebody tells: the user, the file, or the habits of a framework; None where they do not."""

    channels: Channels | None = None
    mean: Three | None = None
    std: Three | None = None

    def __bool__(self) -> bool:
        return self != Told()


def settle(given: Told, file: Told, habit: Told, largest: float, strides_first: bool, ask: str) -> Pixels:
    """Return what holds: what the user gives, else what the file says, else what its framework has by habit.

    strides_first: whether the network's bottlenecks stride in the first 1x1, as MSRA's do. ask: what to say where
    nobody knows the order of the channels.
    """
    channels = given.channels or file.channels or habit.channels
    if channels is None:
        raise InputError(ask)
    mean, std = _usual(channels, largest, strides_first)
    said = "as given" if given else "as the file says" if file else "assumed, for the file does not say"
    if (given or file) and not _whole(given, file):
        said += "; the rest is assumed, for the file does not say"
    return Pixels(
        channels,
        given.mean or file.mean or habit.mean or mean,
        given.std or file.std or habit.std or std,
        largest,
        said,
    )


def _whole(given: Told, file: Told) -> bool:
    return all(a or b for a, b in ((given.channels, file.channels), (given.mean, file.mean), (given.std, file.std)))


def _usual(channels: Channels, largest: float, strides_first: bool) -> tuple[Three, Three]:
    if channels == "bgr" and largest == 255:
        return _MEAN_OF_CAFFE, _FOLDED if strides_first else _STD_OF_CAFFE
    imagenet = Preprocessing() if largest == 1 else Preprocessing().of_bytes()
    step = -1 if channels == "bgr" else 1
    return three(imagenet.mean[::step]), three(imagenet.std[::step])


def three(values: tuple[float, ...] | list[float]) -> Three:
    first, second, third = values
    return float(first), float(second), float(third)
