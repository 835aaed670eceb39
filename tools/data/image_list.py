"""Images to predict on: their files, and the ids and names that results have for them; also from a COCO file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os.path import abspath
from pathlib import Path
from typing import Any

from ...backbones import InputError
from .document import records
from .images import Array, Files
from .sets import Category


@dataclass(frozen=True)
class ImageFile:
    """An image file, the id of it in results, and its name in them.

    size: the (height, width) that it is said to have, where that is known. listed: it is of an ImageList.
    """

    path: Path
    id: int
    file_name: str
    size: tuple[int, int] | None = None
    listed: bool = False

    def read(self, files: Files) -> Array:
        """Return the pixels; those of a listed image are never turned, as COCO's sizes and boxes are of stored pixels.

        Another size than it is said to have is an InputError: what is found would be in other pixels.
        """
        pixels = files.read(self.path, orient=not self.listed)
        if self.size is not None and pixels.shape[:2] != self.size:
            (height, width), (said_height, said_width) = pixels.shape[:2], self.size
            raise InputError(
                f"image {self.path} is {width}x{height}, its list says {said_width}x{said_height}; were the images "
                "resized?"
            )
        return pixels


@dataclass(frozen=True)
class ImageList:
    """The images of a COCO file, and its categories by id, which may be none."""

    source: Path
    images: tuple[ImageFile, ...]
    categories: tuple[Category, ...]


def numbered(paths: Sequence[Path]) -> list[ImageFile]:
    """Return image files with the ids 1, 2, 3, …, each named by its path."""
    return [ImageFile(path, i, str(path)) for i, path in enumerate(paths, start=1)]


def read_image_list(source: Path, folder: Path) -> ImageList:
    """Return the images of a COCO file, as image_info_test-dev2017.json, which may be without annotations.

    folder: where the images lie. Images without an id or a name of their own, names that point out of the folder, and a
    folder that has none of them are an InputError; otherwise files may be missing.
    """
    images: dict[int, ImageFile] = {}
    categories: list[Category] = []
    root = abspath(folder)
    for kind, record in records(source, ("images", "categories"), needed=()):
        if kind == "categories":
            categories.append(Category(_integer(source, kind, record), str(record.get("name"))))
            continue
        image = _image(source, folder, record)
        if image.id in images:
            raise InputError(
                f"{source}: images {images[image.id].file_name!r} and {image.file_name!r} have the same id {image.id}; "
                "each needs its own"
            )
        # By the name alone: links that somebody made within the folder are meant.
        if not Path(abspath(image.path)).is_relative_to(root):
            raise InputError(f"{source}: file_name {image.file_name!r} points outside of {folder}")
        images[image.id] = image
    if not images:
        raise InputError(
            f"{source} lists no images; a JSON file to predict on is one of COCO's, with a list 'images' of id and "
            "file_name, as image_info_test-dev2017.json"
        )
    if not any(image.path.is_file() for image in images.values()):
        first = next(iter(images.values())).file_name
        raise InputError(
            f"none of the {len(images)} images of {source} is in {folder} (first: {first!r}); say where they lie with "
            "--images DIR"
        )
    return ImageList(source, tuple(images.values()), tuple(sorted(categories, key=lambda category: category.id)))


def _image(source: Path, folder: Path, record: Mapping[str, Any]) -> ImageFile:
    name = record.get("file_name")
    if not isinstance(name, str) or not name:
        raise InputError(f"{source}: an image has no file_name: {str(record)[:60]}")
    return ImageFile(folder / name, _integer(source, "images", record), name, _size(record), listed=True)


def _size(record: Mapping[str, Any]) -> tuple[int, int] | None:
    """Return the (height, width) that a record says its image has; some programs write 0 for what they do not know."""
    height, width = record.get("height"), record.get("width")
    if isinstance(height, int) and isinstance(width, int) and height > 0 and width > 0:
        return height, width
    return None


def _integer(source: Path, kind: str, record: Mapping[str, Any]) -> int:
    found = record.get("id")
    if type(found) is not int:
        raise InputError(
            f"{source}: one of the {kind} has the id {found!r}, a whole number is needed: {str(record)[:60]}"
        )
    return found
