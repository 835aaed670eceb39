"""A file of annotations under check: its records, of which some are sound, and what is known of its image files."""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from .boxes import Size
from .files import ImageFile
from .kinds import Finding
from .records import (
    ANNOTATION,
    CATEGORY,
    IMAGE,
    Fields,
    flaw,
    is_name,
    is_whole,
    name_of_annotation,
    name_of_category,
    name_of_image,
)

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Source:
    """A file of annotations under check: its folder of images, what it holds, and its image files by name.

    name: that of its split, and of the file too where the split is joined of several.
    """

    split: str
    name: str
    annotations: Path
    folder: Path
    document: Mapping[str, Any]
    files: Mapping[str, ImageFile]

    def finding(self, kind: str, where: str, detail: str = "") -> Finding:
        return Finding(kind, self.name, where, detail)

    @cached_property
    def images(self) -> list[tuple[str, Record]]:
        """The sound image records, with what to call them."""
        return sound(self.document["images"], IMAGE, name_of_image)

    @cached_property
    def categories(self) -> list[Record]:
        """The sound categories."""
        return [record for _, record in sound(self.document["categories"], CATEGORY, name_of_category)]

    @cached_property
    def names(self) -> dict[int, str]:
        """The names of the categories by id, the first of each."""
        return {c["id"]: c["name"] for c in reversed(self.categories)}

    @cached_property
    def sizes(self) -> dict[int, Size]:
        """Height and width of the images by id, as the first record of each says."""
        return {record["id"]: (record["height"], record["width"]) for _, record in reversed(self.images)}

    @cached_property
    def objects(self) -> list[tuple[str, Record]]:
        """The annotations of images and categories that are listed, with what to call them."""
        return [
            (name, record)
            for name, record in sound(self.document["annotations"], ANNOTATION, name_of_annotation)
            if record["image_id"] in self.sizes and record["category_id"] in self.names
        ]


def sound(records: Sequence[Any], fields: Fields, name: Callable[[Any, int], str]) -> list[tuple[str, Record]]:
    """Return the records that have these fields, with what to call them."""
    return [(name(record, i), record) for i, record in enumerate(records) if not flaw(record, fields)]


def file_names(document: Mapping[str, Any]) -> list[str]:
    """Return the names of image files, each once, of all records that have one."""
    records = (record for record in document["images"] if isinstance(record, dict))
    return list(dict.fromkeys(record["file_name"] for record in records if is_name(record.get("file_name"))))


def has_other_size(record: Record, file: ImageFile) -> bool:
    """Return whether a file that was read is of another size than its record says."""
    return file.height > 0 and (file.height, file.width) != (record["height"], record["width"])


def same_file(name: str) -> str:
    """Return what equals for all names of a file."""
    return posixpath.normpath(name)


def ids(records: Iterable[Any]) -> set[int]:
    """Return the ids in a list of records, those of records that lack something else too."""
    return {record["id"] for record in records if isinstance(record, dict) and is_whole(record.get("id"))}
