"""Label PNGs: the values or colours of their pixels, and the classes that these mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...backbones import InputError
from .sets import IGNORE, Array

Colour = tuple[int, int, int]
NO_CLASS = -1  # in tables: a value that is neither a class nor ignored


@dataclass(frozen=True, eq=False)
class Coding:
    """What the pixels of label PNGs mean, by their codes: values, or colours as 0xRRGGBB where `coloured`.

    `classes` gives the class of each code, 255 for those to ignore; `original` the value of each class in order, for
    its category (with colours its index). The slot of a code is its remainder by the number of slots, which no two
    codes share; `table` has the class and `keys` the code of each.
    """

    classes: dict[int, int]
    original: tuple[int, ...]
    coloured: bool
    keys: np.ndarray[Any, np.dtype[np.int32]]
    table: np.ndarray[Any, np.dtype[np.int16]]

    def decode(self, codes: Array) -> Array:
        """Return the classes of codes, `NO_CLASS` where they have none."""
        # There are at least 2^16 slots, so that the codes of 8 and 16 bits are their own remainders.
        slots = codes if codes.dtype.itemsize <= 2 else codes % np.int32(len(self.keys))
        found = self.table.take(slots)
        found[self.keys.take(slots) != codes] = NO_CLASS
        return found

    def name(self, code: int) -> str:
        return str((code >> 16, code >> 8 & 255, code & 255) if self.coloured else code)


def value_coding(count: int, values: Sequence[int] | None = None, ignore: Sequence[int] = (IGNORE,)) -> Coding:
    """Return the coding of index PNGs, whose classes have these values, by default their indexes."""
    original = tuple(range(count) if values is None else values)
    return _coding(count, original, ignore, original, coloured=False)


def colour_coding(count: int, palette: Sequence[Colour], ignore: Sequence[Colour] = ()) -> Coding:
    """Return the coding of colour PNGs, whose classes have the colours of the palette."""
    return _coding(count, [*map(_code, palette)], [*map(_code, ignore)], tuple(range(count)), coloured=True)


def _code(colour: Sequence[int]) -> int:
    if len(colour) != 3 or not all(0 <= part <= 255 for part in colour):
        raise InputError(f"colour {list(colour)} in the palette; three numbers from 0 to 255 are needed")
    red, green, blue = colour
    return red << 16 | green << 8 | blue


def _coding(
    count: int, codes: Sequence[int], ignore: Sequence[int], original: tuple[int, ...], *, coloured: bool
) -> Coding:
    what = "colours" if coloured else "values"
    if not 1 <= count <= IGNORE:
        raise InputError(f"{count} classes are named for the label PNGs; 1 to {IGNORE} can be, in their order")
    if len(codes) != count:
        raise InputError(f"{len(codes)} {what} for {count} classes; each class needs its own")
    classes = {code: index for index, code in enumerate(codes)} | dict.fromkeys(ignore, IGNORE)
    if len(classes) < count + len(set(ignore)):
        raise InputError(
            f"two classes share one of the {what}, or one is both a class and to be ignored: "
            f"{what} {list(codes)}, ignore {list(ignore)}"
        )
    # Colours soon find a number of slots that keeps them apart.
    slots = next(n for n in range(1 << 16, 1 << 25) if len({code % n for code in classes}) == len(classes))
    keys, table = np.full(slots, -1, np.int32), np.full(slots, NO_CLASS, np.int16)
    for code, index in classes.items():
        keys[code % slots], table[code % slots] = code, index
    return Coding(classes, original, coloured, keys, table)


def read_labels(path: Path, coding: Coding) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return the classes (height, width) of a label PNG, 255 where they are ignored.

    A PNG with a palette counts as an index PNG unless the coding has colours. A value or colour that the coding does
    not know is an InputError.
    """
    codes = _read_codes(path, coding)
    classes = coding.decode(codes)
    odd = classes == NO_CLASS
    if odd.any():
        what = "colour" if coding.coloured else "value"
        raise InputError(
            f"labels {path} have {what} {coding.name(int(codes[odd][0]))} in {int(odd.sum())} pixels; "
            f"the classes have {_listed(coding, ignored=False)}, to be ignored: {_listed(coding, ignored=True)}"
        )
    return classes.astype(np.uint8)


def _listed(coding: Coding, *, ignored: bool) -> str:
    codes = [code for code, index in coding.classes.items() if (index == IGNORE) is ignored]
    if not coding.coloured and len(codes) > 2 and codes == [*range(codes[0], codes[-1] + 1)]:
        return f"{codes[0]} to {codes[-1]}"
    return ", ".join(map(coding.name, codes)) or "none"


def _read_codes(path: Path, coding: Coding) -> Array:
    if not coding.coloured:
        return read_values(path)
    wide = _open(path, "RGB")[0].astype(np.int32)
    return np.asarray(wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2], np.int32)


def read_values(path: Path) -> Array:
    """Return the values of an index PNG, greyscale or with a palette, as they are stored: (height, width), integers."""
    pixels, mode = _open(path)
    if pixels.ndim != 2:
        raise InputError(f"labels {path} are {mode}, with colours; give the data set's palette, or index PNGs")
    return pixels.astype(np.uint8) if pixels.dtype == bool else pixels


def _open(path: Path, mode: str | None = None) -> tuple[Array, str]:
    """Return the pixels, turned into that mode of Pillow's, and the mode that they are stored in."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            return np.array(image.convert(mode) if mode else image), image.mode
    except Exception as error:  # Pillow raises many types for a damaged file
        raise InputError(f"labels {path} cannot be read ({error}); replace the file") from error
