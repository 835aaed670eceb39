"""The annotations of a COCO file as tables on disk, which processes read from instead of holding them.

A store is a folder: `images` and `annotations` are tables of fixed rows, sorted by image, `names` and `segments` the
bytes that they point into, `index.json` says what it is of. Each image's row has a checksum of all that belongs to it,
which is verified whenever the image is read.
"""

from __future__ import annotations

import json
import os
import weakref
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from ...backbones import InputError
from .masks import Segmentation
from .segments import AS_GIVEN, NONE, unpack
from .sets import Array, Category

# Raise it when the tables change: stores of another version are made anew.
VERSION = 1

# `name`, `annotations` and `segment` are where the name, the annotations and the segmentation of a row end.
IMAGE = np.dtype(
    [("id", "<i8"), ("height", "<i4"), ("width", "<i4"), ("name", "<i8"), ("annotations", "<i8"), ("check", "<u4")]
)
ANNOTATION = np.dtype(
    [
        ("id", "<i8"),
        ("category", "<i4"),  # its place among the categories by id
        ("crowd", "?"),
        ("empty", "?"),  # its box has no area
        ("form", "u1"),  # of the segmentation
        ("bbox", "<f8", 4),  # x, y, width, height
        ("area", "<f8"),  # NaN where the file has none
        ("segment", "<i8"),
    ]
)
TABLES = {"images": IMAGE, "annotations": ANNOTATION, "names": np.dtype("u1"), "segments": np.dtype("u1")}


class Damaged(Exception):
    """A store is not what was written."""


@dataclass(frozen=True)
class Stored:
    """An image of a store: its record, and the rows of its annotations with the bytes of their segmentations."""

    id: int
    name: str
    height: int
    width: int
    annotations: Array
    segments: Sequence[bytes]

    def segmentation(self, row: int) -> Segmentation | None:
        """Return the segmentation of an annotation, or None where it has none; a malformed one is an InputError."""
        annotation = self.annotations[row]
        return unpack(int(annotation["form"]), self.segments[row], self.height, self.width, int(annotation["id"]))


class Table:
    """A file of `length` fixed rows, open for reading.

    A few rows are read; `all` of them are mapped. Pages of a map count as memory of every process that touches them,
    which adds up in loader workers that see images at random.
    """

    def __init__(self, path: Path, dtype: np.dtype[Any], length: int) -> None:
        self.path = path
        self.dtype = dtype
        self.length = length
        self._descriptor = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._descriptor)
        size = os.fstat(self._descriptor).st_size
        if size != length * dtype.itemsize:
            raise Damaged(f"{path} has {size} bytes in place of {length * dtype.itemsize}")

    def rows(self, start: int, stop: int) -> Array:
        """Read the rows from `start` to `stop`. Forked processes may do so at once: the file's position stays."""
        if not 0 <= start <= stop <= self.length:
            raise Damaged(f"{self.path} has no rows from {start} to {stop}")
        size = self.dtype.itemsize
        content = os.pread(self._descriptor, (stop - start) * size, start * size)
        if len(content) != (stop - start) * size:
            raise Damaged(f"{self.path} ends early")
        return np.frombuffer(content, self.dtype)

    @cached_property
    def all(self) -> Array:
        if not self.length:  # an empty file cannot be mapped
            return np.zeros(0, self.dtype)
        return np.asarray(np.memmap(self.path, self.dtype, mode="r"))


class Store:
    """A store, open for reading, of the file `source`. Sending it to another process sends its path."""

    def __init__(self, folder: Path, source: Path) -> None:
        self.folder = folder
        self.source = source
        try:
            index = json.loads((folder / "index.json").read_bytes())
            body, check = index["body"], index["check"]
            if body["version"] != VERSION or check != _checksum(body):
                raise Damaged(f"{folder} is of another version, or damaged")
            tables = {name: Table(folder / name, dtype, body["rows"][name]) for name, dtype in TABLES.items()}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise Damaged(f"{folder} is damaged: {error}") from error
        self.body: Mapping[str, Any] = body
        self._images, self._annotations = tables["images"], tables["annotations"]
        self._names, self._segments = tables["names"], tables["segments"]

    def __reduce__(self) -> tuple[type[Store], tuple[Path, Path]]:
        return Store, (self.folder, self.source)

    def __len__(self) -> int:
        return self._images.length

    @property
    def table(self) -> Array:
        """All annotations."""
        return self._annotations.all

    @cached_property
    def categories(self) -> tuple[Category, ...]:
        """All categories of the file, by id."""
        return tuple(Category(id, name) for id, name in self.body["categories"])

    @property
    def ids(self) -> Array:
        """The ids of all images."""
        return np.asarray(self._images.all["id"])

    @property
    def sizes(self) -> Array:
        """Height and width of all images, (images, 2)."""
        return np.stack([self._images.all["height"], self._images.all["width"]], axis=1)

    @property
    def counts(self) -> Array:
        """How many annotations each image has."""
        return np.diff(self._images.all["annotations"], prepend=0)

    def names(self) -> Iterator[str]:
        """Yield the file names of all images."""
        content, start = self._names.all.tobytes(), 0
        for end in self._images.all["name"]:
            yield content[start:end].decode()
            start = end

    @property
    def empty(self) -> tuple[int, int]:
        """How many objects have a box without area, and the annotation id of the first."""
        count, first = self.body["empty"]
        return count, first

    @property
    def unmasked(self) -> int:
        """How many objects to learn have no segmentation, or one that is malformed."""
        return int(self.body["unmasked"])

    def image(self, row: int) -> Stored:
        """Return an image with its annotations; where they are not what was written, an InputError says what to do."""
        try:
            return self._read(row)
        except Damaged as error:
            (self.folder / "index.json").unlink(missing_ok=True)  # so that the next start makes it anew
            raise InputError(
                f"the copy of {self.source} in the cache, {self.folder}, was damaged; start again"
            ) from error

    def _read(self, row: int) -> Stored:
        first, record = self._images.rows(row - 1, row + 1) if row else (np.zeros((), IMAGE), *self._images.rows(0, 1))
        start, end = int(first["annotations"]), int(record["annotations"])
        name = self._names.rows(int(first["name"]), int(record["name"])).tobytes()
        before = self._annotations.rows(start - 1, start)["segment"].item() if start else 0
        annotations = self._annotations.rows(start, end)
        ends = annotations["segment"].tolist()
        segments = self._segments.rows(before, ends[-1] if ends else before).tobytes()
        if checksum(record, name, annotations, segments) != record["check"]:
            raise Damaged(f"image {row} of {self.folder} is not what was written")
        starts = [0, *(end - before for end in ends)]
        return Stored(
            int(record["id"]),
            name.decode(),
            int(record["height"]),
            int(record["width"]),
            annotations,
            [segments[start:end] for start, end in pairwise(starts)],
        )

    def masked(self, wanted: Array) -> Array:
        """Return which annotations have a mask; of the wanted ones, a malformed one is an InputError."""
        form = self.table["form"]
        ends = self._images.all["annotations"]
        for row in np.flatnonzero(wanted & (form == AS_GIVEN)):
            image = int(np.searchsorted(ends, row, side="right"))
            self.image(image).segmentation(int(row - (ends[image - 1] if image else 0)))
        return np.asarray(form != NONE)


def checksum(record: Any, name: bytes, annotations: Array, segments: bytes) -> int:
    """Return the checksum of an image: of its row but for the checksum itself, and all that the row points to."""
    check = zlib.crc32(record.tobytes()[: -IMAGE["check"].itemsize])
    for content in (name, annotations.tobytes(), segments):
        check = zlib.crc32(content, check)
    return check


def write_index(folder: Path, body: Mapping[str, Any]) -> None:
    """Write the index of a store, which makes it one."""
    (folder / "index.json").write_text(json.dumps({"body": body, "check": _checksum(body)}))


def _checksum(body: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps(body, sort_keys=True).encode())
