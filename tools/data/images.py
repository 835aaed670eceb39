"""Reading image files as COCO means them: the stored pixels, RGB, whole or not at all; in training perhaps reduced."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np

from ...backbones import InputError

Array = np.ndarray[Any, np.dtype[Any]]
Pixels = np.ndarray[Any, np.dtype[np.uint8]]

JPEG = b"\xff\xd8"  # what such a file begins with

# What each format ends with when it was written to its end; OpenCV fills in the rest of a cut file without an error.
ENDINGS = {JPEG: b"\xff\xd9", b"\x89P": b"IEND\xaeB`\x82"}
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")


@runtime_checkable
class Reducible(Protocol):
    """An image of a data set whose size is known before it is decoded, so that no more of it need be decoded."""

    def size(self) -> tuple[int, int]:
        """Return the (height, width) that the image is said to have, by its annotations or its file's head."""
        ...

    def read_reduced(self, factor: int) -> tuple[Array, int]:
        """Return the pixels as `Files.read_reduced` does; an InputError where their size is another."""
        ...


class Files(Protocol):
    """How the image files of a data set are read; what goes wrong is an InputError that names the file."""

    @property
    def suffixes(self) -> tuple[str, ...]: ...

    def read(self, path: Path, *, orient: bool = False) -> Array:
        """Return the pixels (height, width, channels); with `orient` turned as EXIF data says, where there is such."""
        ...

    def read_reduced(self, path: Path, factor: int) -> tuple[Array, int]:
        """Return the pixels at up to a `factor`th of their size, with sides rounded up, and the factor they are at."""
        ...

    def size(self, path: Path) -> tuple[int, int]:
        """Return (height, width)."""
        ...


@dataclass(frozen=True)
class Rgb:
    """Pictures as uint8 RGB, whatever is stored."""

    suffixes: ClassVar[tuple[str, ...]] = SUFFIXES

    def read(self, path: Path, *, orient: bool = False) -> Pixels:
        return read_image(path, orient=orient)

    def read_reduced(self, path: Path, factor: int) -> tuple[Pixels, int]:
        return read_reduced(path, factor)

    def size(self, path: Path) -> tuple[int, int]:
        return stored_size(path)


RGB = Rgb()


def read_image(path: Path, *, orient: bool = False) -> Pixels:
    """Return the image as uint8 RGB (height, width, 3).

    orient: turn it as its EXIF data says. COCO's sizes and boxes are those of the stored pixels, so training and
    evaluation leave it off. A file that is missing, cut short or no image is an InputError.
    """
    return _decode(path, read_content(path), orient=orient, factor=1)


def read_reduced(path: Path, factor: int) -> tuple[Pixels, int]:
    """Return the image, not turned, at a `factor`th (1, 2, 4 or 8) of its size if it is a JPEG, and the factor it has.

    Sides are rounded up. That is quicker than to decode the whole and leaves finer detail out, rather than picking some
    of it. Other formats know no such thing: of them the factor is 1.
    """
    content = read_content(path)
    factor = factor if content.startswith(JPEG) else 1
    return _decode(path, content, orient=False, factor=factor), factor


def stored_size(path: Path) -> tuple[int, int]:
    """Return height and width of the stored pixels, from the file's first bytes."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            return image.height, image.width
    except Exception as error:  # Pillow raises many types for a damaged file
        raise InputError(f"image {path} cannot be read ({error}); replace the file") from error


def read_content(path: Path) -> bytes:
    """Return what is in an image file; one that is missing or cut short is an InputError."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"image {path} cannot be read: {error.strerror or error}") from error
    # OpenCV decodes a cut JPEG to grey where the data ends; where the end mark is not at the end, ask Pillow.
    if not content.endswith(ENDINGS.get(content[:2], b"")):
        _check_whole(path)
    return content


def _decode(path: Path, content: bytes, *, orient: bool, factor: int) -> Pixels:
    import cv2

    # OpenCV names these for grey images; they say "reduced", and IMREAD_COLOR_RGB says the rest.
    scales = {
        1: 0,
        2: cv2.IMREAD_REDUCED_GRAYSCALE_2,
        4: cv2.IMREAD_REDUCED_GRAYSCALE_4,
        8: cv2.IMREAD_REDUCED_GRAYSCALE_8,
    }
    flags = cv2.IMREAD_COLOR_RGB | scales[factor] | (0 if orient else cv2.IMREAD_IGNORE_ORIENTATION)
    try:
        image = cv2.imdecode(np.frombuffer(content, np.uint8), flags) if content else None
    except cv2.error:  # more pixels than it takes
        image = None
    if image is None:
        raise InputError(f"{path} is not an image that OpenCV can read; remove it from the data set or replace it")
    return np.asarray(image, np.uint8)


def _check_whole(path: Path) -> None:
    from PIL import Image

    try:
        with Image.open(path) as image:
            image.load()
    except Exception as error:  # Pillow raises many types for a damaged file
        raise InputError(f"image {path} is cut short or damaged ({error}); replace the file") from error


def list_files(folder: Path) -> list[Path]:
    """Return the files in a folder and in the folders below it, links followed, in order of path; none that is hidden.

    Paths are relative to the folder.
    """
    found = []
    for place, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(place, name).relative_to(folder) for name in names if not name.startswith(".")]
    return sorted(found)


def find_images(paths: Sequence[Path], suffixes: Sequence[str] = SUFFIXES) -> list[Path]:
    """Return the image files that are meant, those of each path in order of name.

    A path is a file, whatever its suffix; a folder, for the images in it (not deeper); or a pattern, for the images
    that it matches: `*`, `?` and `[…]` as in a shell, `**` for any number of folders. A file or folder of that very
    name goes before the pattern; hidden files are left out. A path that gives no image is an InputError.
    """
    return [image for path in paths for image in _images_at(path, suffixes)]


def _images_at(path: Path, suffixes: Sequence[str]) -> list[Path]:
    if path.is_file():
        return [path]
    if path.is_dir():
        found, nothing = _images(path.iterdir(), suffixes), f"no images in {path}"
    elif glob.has_magic(str(path)):
        found, nothing = _images(map(Path, glob.iglob(str(path), recursive=True)), suffixes), f"no image matches {path}"
    else:
        raise InputError(f"no image or folder at {path}")
    if not found:
        deeper = f"; '{path / '**'}' also looks in the folders below" if path.is_dir() else ""
        raise InputError(f"{nothing}; files ending in {', '.join(suffixes)} are read{deeper}")
    return found


def _images(paths: Iterable[Path], suffixes: Sequence[str]) -> list[Path]:
    return sorted(p for p in paths if p.suffix.lower() in suffixes and not p.name.startswith(".") and p.is_file())


def own_names(paths: Iterable[Path]) -> list[str]:
    """Return a name for the files of each image, without suffix; equal ones are numbered."""
    names: list[str] = []
    taken: set[str] = set()
    numbers: dict[str, int] = {}
    for path in paths:
        name = path.stem
        while name in taken:
            numbers[path.stem] = numbers.get(path.stem, 1) + 1
            name = f"{path.stem}-{numbers[path.stem]}"
        taken.add(name)
        names.append(name)
    return names
