"""What is in a data set, whether or not anything is wrong with it: classes, sizes of objects, equal images."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .boxes import clipped
from .kinds import Finding
from .records import is_number, read_box, shown
from .source import Source, same_file

# COCO's: objects of less than 32² pixels are small, of less than 96² medium.
SMALL, MEDIUM = 32**2, 96**2
QUANTILES = (0.0, 0.1, 0.5, 0.9, 1.0)


@dataclass(frozen=True)
class ClassCount:
    """How much there is of a class in a split: `amount` of objects, pixels or images, and the images that have it."""

    id: int
    name: str
    amount: int
    images: int


@dataclass(frozen=True)
class Part:
    """What a split holds. `counted` says what the classes' amounts are of, `areas` has those of its objects, in pixels.

    digests: of the contents of the image files that were read, by name. name: that of the split, and of the file too
    where the split is joined of several.
    """

    split: str
    name: str
    source: Path
    images: int
    counted: str
    classes: tuple[ClassCount, ...]
    areas: np.ndarray[Any, np.dtype[np.float64]] | None = None
    digests: Mapping[str, bytes] = field(default_factory=dict, repr=False)

    @property
    def total(self) -> int:
        """The sum of the classes' amounts."""
        return sum(one.amount for one in self.classes)


def part_of(source: Source) -> Part:
    """Count the objects that training learns from: crowds and boxes without area are none."""
    amounts: Counter[int] = Counter()
    images, areas = defaultdict(set), []
    for _, record in source.objects:
        box = read_box(record.get("bbox"))
        part = None if box is None else clipped(box, source.sizes[record["image_id"]])
        if record.get("iscrowd") or part is None:
            continue
        amounts[record["category_id"]] += 1
        images[record["category_id"]].add(record["image_id"])
        areas.append(float(record["area"]) if is_number(record.get("area")) else part[2] * part[3])
    classes = tuple(ClassCount(id, name, amounts[id], len(images[id])) for id, name in sorted(source.names.items()))
    digests = {same_file(name): file.digest for name, file in source.files.items() if not file.fault and file.digest}
    return Part(
        source.split,
        source.name,
        source.annotations,
        len(source.images),
        "objects",
        classes,
        np.maximum(np.array(areas, np.float64), 0),
        digests,
    )


def equal_images(parts: Iterable[Part]) -> Iterator[Finding]:
    """Yield the files whose content an earlier split has, or an earlier file of the same split."""
    seen: dict[bytes, dict[str, str]] = defaultdict(dict)
    for part in parts:
        for file, digest in part.digests.items():
            others = seen[digest]
            for split, other in others.items():
                kind = "repeated_image" if split == part.split else "shared_image"
                yield Finding(kind, part.name, shown(file), f"equals {shown(other)} of {split}")
            others.setdefault(part.split, file)


def size_counts(areas: np.ndarray[Any, np.dtype[np.float64]]) -> tuple[int, int, int]:
    """Return how many areas are small, medium and large, as COCO's evaluation has them."""
    small, medium = int((areas < SMALL).sum()), int((areas < MEDIUM).sum())
    return small, medium - small, len(areas) - medium


def side_quantiles(areas: np.ndarray[Any, np.dtype[np.float64]]) -> tuple[float, ...]:
    """Return quantiles of the square roots of areas, in pixels; none where there are no areas."""
    return tuple(np.quantile(np.sqrt(areas), QUANTILES).tolist()) if len(areas) else ()
