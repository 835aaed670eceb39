"""The common form that data sets have between formats: parts of pictures with their objects, and what is lost."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ....backbones import InputError
from ..masks import Segmentation

PARTS = ("train", "val", "test")
Box = tuple[float, float, float, float]  # x, y, width, height in pixels, from the image's corner, as COCO has them

# Boxes that reach further out of their image than this, in pixels, are counted when they are cut to it. COCO's own
# reach out by its rounding to two decimals.
ROUNDING = 0.02


@dataclass(frozen=True, slots=True)
class Object:
    """An object: the position of its category, its box, and its mask where it has one.

    crowd: it stands for many objects, as COCO's crowds do. difficult: VOC's mark for what evaluation passes over.
    """

    category: int
    box: Box
    segmentation: Segmentation | None = None
    crowd: bool = False
    difficult: bool = False


@dataclass(frozen=True, slots=True)
class Picture:
    """An image, of the size of its stored pixels, with its objects. `name` is its path below the folder of images."""

    path: Path
    name: str
    height: int
    width: int
    objects: tuple[Object, ...]


@dataclass(frozen=True)
class Part:
    """A split: the names of its pictures, and these themselves, in order, read as they are asked for."""

    name: str
    names: tuple[str, ...]
    pictures: Iterable[Picture]


@dataclass(frozen=True)
class Collection:
    """A data set in the common form: the names of its categories in order, and its parts."""

    source: Path
    categories: tuple[str, ...]
    parts: tuple[Part, ...]


class Notes:
    """What could not be carried over as it was: how often, by kind, with the first example of each."""

    def __init__(self) -> None:
        self._found: dict[str, tuple[int, str]] = {}

    def add(self, what: str, example: str) -> None:
        """Count one more of a kind, such as `crowds were left out`."""
        count, first = self._found.get(what, (0, example))
        self._found[what] = count + 1, first

    def lines(self) -> list[str]:
        """Return a line for each kind."""
        return [f"{count:,} {what} (first: {first})" for what, (count, first) in self._found.items()]


Place = Callable[[Path, Path], None]  # brings an image from one path to another


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        target.symlink_to(source.resolve())
    except OSError as error:
        raise InputError(f"cannot link {target} to {source} ({error.strerror}); take --images copy") from error


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def _leave(source: Path, target: Path) -> None:
    """Bring nothing: the annotations are wanted alone."""


IMAGES: dict[str, Place] = {"link": _link, "copy": _copy, "none": _leave}


def write_text(path: Path, text: str) -> None:
    """Write a text file, in folders that are made for it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def stem(name: str) -> str:
    """Return a picture's name without its extension."""
    return PurePosixPath(name).with_suffix("").as_posix()


def check_names(names: Sequence[str], source: Path) -> None:
    """Refuse pictures of one name: the second would be written over the first."""
    again = [name for name, count in Counter(names).items() if count > 1]
    if again:
        raise InputError(f"{source} has {len(again)} names of images twice (first: {min(again)}); rename one")


def check_stems(names: Sequence[str], source: Path, suffix: str) -> None:
    """Refuse pictures whose names differ in nothing but their extension, where each needs a file of its own."""
    check_names(names, source)
    taken: dict[str, str] = {}
    for name in names:
        other = taken.setdefault(stem(name), name)
        if other != name:
            raise InputError(f"{source} has {other} and {name}, which would share {stem(name)}{suffix}; rename one")


def boxes_of(picture: Picture, notes: Notes) -> Iterator[tuple[Object, Box]]:
    """Yield the objects that have a place in formats of single objects, with their boxes cut to the image.

    Crowds, boxes without area and boxes outside the image are left out and noted.
    """
    for found in picture.objects:
        if found.crowd:
            notes.add("crowds were left out: the format has single objects only", picture.name)
            continue
        x, y, width, height = found.box
        if width <= 0 or height <= 0:
            notes.add("boxes without area were left out", picture.name)
            continue
        left, top = max(0.0, x), max(0.0, y)
        right, bottom = min(float(picture.width), x + width), min(float(picture.height), y + height)
        if right <= left or bottom <= top:
            notes.add("boxes outside their image were left out", picture.name)
            continue
        if max(left - x, top - y, x + width - right, y + height - bottom) > ROUNDING:
            notes.add("boxes reached out of their image and were cut to it", picture.name)
        # The given width where nothing was cut: a difference of sums would not be exactly it.
        wide = width if left == x and right == x + width else right - left
        high = height if top == y and bottom == y + height else bottom - top
        yield found, (left, top, wide, high)
