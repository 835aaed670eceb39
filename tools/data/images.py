"""Reading image files as COCO means them: the stored pixels, RGB, whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...backbones import InputError

# What each format ends with when it was written to its end; OpenCV fills in the rest of a cut file without an error.
ENDINGS = {b"\xff\xd8": b"\xff\xd9", b"\x89P": b"IEND\xaeB`\x82"}
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")


def read_image(path: Path, *, orient: bool = False) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return the image as uint8 RGB (height, width, 3).

    orient: turn it as its EXIF data says. COCO's sizes and boxes are those of the stored pixels, so training and
    evaluation leave it off. A file that is missing, cut short or no image is an InputError.
    """
    import cv2

    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"image {path} cannot be read: {error.strerror or error}") from error
    # OpenCV decodes a cut JPEG to grey where the data ends; where the end mark is not at the end, ask Pillow.
    if not content.endswith(ENDINGS.get(content[:2], b"")):
        _check_whole(path)
    flags = cv2.IMREAD_COLOR_RGB if orient else cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    image = cv2.imdecode(np.frombuffer(content, np.uint8), flags) if content else None
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


def find_images(paths: Sequence[Path]) -> list[Path]:
    """Return the image files among the paths and in the folders among them (not deeper), in order of name."""
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES)
            if not inside:
                raise InputError(f"no images in {path}; files ending in {', '.join(SUFFIXES)} are read")
            found += inside
        elif path.is_file():
            found.append(path)
        else:
            raise InputError(f"no image or folder at {path}")
    return found
