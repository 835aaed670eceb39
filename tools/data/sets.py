"""What every data set is to the tools: categories, and images with what there is to learn from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar, overload

import numpy as np

from ...backbones import InputError

Array = np.ndarray[Any, np.dtype[Any]]

# The value of pixels in `semantic` that are neither learnt from nor counted.
IGNORE = 255


@dataclass(frozen=True)
class Category:
    """A category as its data set has it; inside, its label follows from its position in the list of categories."""

    id: int
    name: str


class Sample(Protocol):
    """One image of a data set. Reading it, or its targets, raises an InputError where the files are not sound."""

    @property
    def id(self) -> int: ...

    @property
    def path(self) -> Path: ...

    def read(self) -> Array:
        """Return the pixels, uint8 RGB (height, width, 3)."""
        ...

    def targets(self, keys: Sequence[str]) -> dict[str, Any]:
        """Return what a model learns from, by the names it has in targets, in pixels of the image as it is read.

        Arrays, which are the caller's own, but `masks` are Cutouts.
        """
        ...


class DataSet(Protocol):
    """A split of a data set. `source` is the file or folder that it was read from, for messages."""

    @property
    def source(self) -> Path: ...

    @property
    def categories(self) -> tuple[Category, ...]: ...

    @property
    def images(self) -> Sequence[Sample]: ...


Item_co = TypeVar("Item_co", covariant=True)


class MadeWhenAsked(Sequence[Item_co]):
    """A sequence of which each item is made when it is asked for; a subclass says how many there are, and makes one."""

    def make(self, index: int) -> Item_co:
        """Return the item at an index from 0 on."""
        raise NotImplementedError

    @overload
    def __getitem__(self, index: int) -> Item_co: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[Item_co, ...]: ...

    def __getitem__(self, index: int | slice) -> Item_co | tuple[Item_co, ...]:
        if isinstance(index, slice):
            return tuple(map(self.make, range(*index.indices(len(self)))))
        return self.make(range(len(self))[index])


@dataclass(frozen=True)
class ImageSet:
    """A data set that is no more than its categories and images."""

    source: Path
    categories: tuple[Category, ...]
    images: Sequence[Sample]


def check_categories(data: DataSet, categories: Sequence[Category]) -> None:
    """Refuse a data set whose categories are not those that a model was trained on."""
    if data.categories == tuple(categories):
        return
    theirs = {category.name: category.id for category in data.categories}
    ours = {category.name: category.id for category in categories}
    odd = sorted(name for name in theirs.keys() | ours.keys() if theirs.get(name) != ours.get(name))
    raise InputError(
        f"{data.source} has {len(theirs)} categories, the model {len(ours)}; they differ in "
        f"{', '.join(odd[:5])}{' …' if len(odd) > 5 else ''} (name or id)"
    )


def pick_targets(known: Mapping[str, Callable[[], Any]], keys: Sequence[str]) -> dict[str, Any]:
    """Return the targets of these keys, each made only when asked for; one that the data set lacks is an InputError."""
    for key in keys:
        if key not in known:
            raise InputError(
                f"the model learns from {key!r}, which this data set does not have: it has {', '.join(known)}; "
                "choose a head for these, or another data set"
            )
    return {key: known[key]() for key in keys}
