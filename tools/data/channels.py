"""Images of other kinds than 8-bit RGB: any number of channels, of 8 or 16 bits or floats, as TIFF, PNG or npy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ...backbones import InputError
from .images import SUFFIXES, Array


@dataclass(frozen=True)
class Channels:
    """Files of so many channels, with the values that are stored."""

    count: int
    suffixes: ClassVar[tuple[str, ...]] = (*SUFFIXES, ".npy")

    def read(self, path: Path, *, orient: bool = False) -> Array:
        return read_channels(path, self.count)

    def read_reduced(self, path: Path, factor: int) -> tuple[Array, int]:
        return self.read(path), 1  # no decoder of these leaves anything out

    def size(self, path: Path) -> tuple[int, int]:
        height, width, _ = self.read(path).shape
        return height, width


def read_channels(path: Path, channels: int) -> Array:
    """Return an image with its channels as the file has them: (height, width, channels) uint8, uint16 or float32.

    Colours of PNG files come as RGB, and alpha last. Arrays of npy files and pages of TIFF files may have their
    channels first. Floats are in [0, 1]. EXIF orientation is ignored. Another number of channels, another type or
    range, and a file that cannot be read are an InputError.
    """
    if not path.is_file():
        raise InputError(f"image {path} cannot be read: no such file")
    read = READERS.get(path.suffix.lower(), _read_picture)
    try:
        found = np.asarray(read(path))
    except Exception as error:  # the libraries raise many types for a damaged file
        raise InputError(f"image {path} cannot be read ({' '.join(str(error).split())}); replace the file") from error
    if found.ndim == 2:
        found = found[..., None]
    if found.ndim == 3 and found.shape[0] == channels != found.shape[2]:
        found = np.moveaxis(found, 0, -1)
    if found.ndim != 3 or found.shape[2] != channels or not found.size:
        raise InputError(f"image {path} is an array of {found.shape}; data.channels={channels} were promised")
    if found.dtype in (np.uint8, np.uint16):
        return np.ascontiguousarray(found)
    if found.dtype.kind != "f" or not ((found >= 0) & (found <= 1)).all():
        raise InputError(
            f"image {path} has values of {found.dtype} from {found.min()} to {found.max()}; uint8, uint16, or floats "
            "from 0 to 1 are needed"
        )
    return np.ascontiguousarray(found, np.float32)


def _read_picture(path: Path) -> Any:
    import cv2

    found = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
    if found is None:
        raise ValueError("it is not an image that OpenCV can read")
    if found.ndim == 3:  # blue, green, red, and alpha
        found = found[..., [2, 1, 0, *range(3, found.shape[2])]]
    return found


def _read_tiff(path: Path) -> Any:
    import tifffile

    return tifffile.imread(path)


def _read_array(path: Path) -> Any:
    return np.load(path, allow_pickle=False)


READERS: dict[str, Callable[[Path], Any]] = {".tif": _read_tiff, ".tiff": _read_tiff, ".npy": _read_array}
