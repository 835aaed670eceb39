"""What one reading of an image file tells, and the reading of many at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import blake2b
from io import BytesIO
from pathlib import Path
from typing import TypeVar

import numpy as np
from rich.console import Console
from rich.progress import track

from ....backbones import InputError
from ..images import JPEG, read_content

ORIENTATION = 0x0112  # the EXIF tag; 1 is upright
CMYK_MODES = ("CMYK", "YCCK")

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class ImageFile:
    """What is known of an image file. `fault` is the kind of what keeps it from being read, with `detail`; else empty.

    height, width: of the stored pixels, 0 where it was not read. orientation: as EXIF has it, 1 to 8. digest: of its
    bytes, empty where it was not read.
    """

    fault: str = ""
    detail: str = ""
    height: int = 0
    width: int = 0
    cmyk: bool = False
    orientation: int = 1
    digest: bytes = b""


def look_at(path: Path) -> ImageFile:
    """Return whether the file is there, without reading it."""
    try:
        there = path.exists()
    except OSError:  # a name that is too long for a file
        there = False
    return ImageFile() if there else ImageFile("missing_image")


def read_file(path: Path) -> ImageFile:
    """Return what is to be known of an image; the file is read once, whole, and decoded as training decodes it."""
    try:
        content = read_content(path)
        decoded = _decoded_size(path, content)
    except InputError as error:
        there = look_at(path)
        return there if there.fault else ImageFile("unreadable_image", told(error, path))
    size, mode, orientation = _header(content)
    height, width = size or decoded
    digest = blake2b(content, digest_size=16).digest()
    return ImageFile("", "", height, width, mode in CMYK_MODES, orientation, digest)


def _decoded_size(path: Path, content: bytes) -> tuple[int, int]:
    """Return (height, width) of the decoded image, of a JPEG an eighth of it; what cannot be decoded is refused."""
    import cv2

    if not content:
        raise InputError(f"{path} is empty")
    # In grey and at an eighth of its size a JPEG is decoded from all of its data, but in half the time.
    flags = cv2.IMREAD_REDUCED_GRAYSCALE_8 if content.startswith(JPEG) else cv2.IMREAD_COLOR
    try:
        image = cv2.imdecode(np.frombuffer(content, np.uint8), flags | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error as error:  # more pixels than OpenCV allows
        raise InputError(f"{path} is not an image that OpenCV can read ({error.err})") from error
    if image is None:
        raise InputError(f"{path} is not an image that OpenCV can read")
    height, width = image.shape[:2]
    return height, width


def told(error: Exception, path: Path) -> str:
    """Return what an error says, with the file's name alone for its path."""
    return str(error).replace(str(path), path.name)


def _header(content: bytes) -> tuple[tuple[int, int] | None, str, int]:
    """Return (height, width), the mode of the pixels and the EXIF orientation, of a file that Pillow may not know."""
    from PIL import Image

    try:
        with Image.open(BytesIO(content)) as image:
            # Not its own method, which for PNGs would decode the pixels once more.
            orientation = Image.Image.getexif(image).get(ORIENTATION, 1)
            return (image.height, image.width), image.mode, orientation if orientation in range(1, 9) else 1
    except Exception:  # Pillow raises many types for what it does not know; OpenCV has read the file
        return None, "", 1


def in_parallel(
    function: Callable[[Item], Result], items: Sequence[Item], workers: int, console: Console, text: str
) -> Iterator[Result]:
    """Yield the results in order, with a progress bar on a terminal.

    Threads are enough: reading, hashing and decoding leave Python to the others.
    """
    pool = ThreadPoolExecutor(workers)
    try:
        results: Iterable[Result] = pool.map(function, items)
        yield from track(results, text, total=len(items), console=console, disable=not console.is_terminal)
    finally:
        pool.shutdown(cancel_futures=True)  # an interrupted check does not read the rest first
