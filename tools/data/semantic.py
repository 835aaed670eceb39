"""Semantic segmentation from folders of images and of label PNGs, in pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...backbones import InputError
from .formats import read_lines
from .images import RGB, Files, list_files
from .labels import Coding, Colour, colour_coding, read_labels, value_coding
from .sets import Array, Category, ImageSet, pick_targets


@dataclass(frozen=True, slots=True)
class LabelledImage:
    """An image with a label PNG; `coding` says what its values or colours mean."""

    id: int
    path: Path
    labels: Path
    coding: Coding
    files: Files = RGB

    def read(self) -> Array:
        """Return the pixels (height, width, channels), uint8 RGB unless the data set says otherwise."""
        return self.files.read(self.path)

    def size(self) -> tuple[int, int]:
        return self.files.size(self.path)

    def read_reduced(self, factor: int) -> tuple[Array, int]:
        return self.files.read_reduced(self.path, factor)

    def targets(self, keys: Sequence[str]) -> dict[str, Array]:
        """Return `semantic` (height, width) uint8, 255 where a pixel is to be ignored, where it is asked for."""
        return pick_targets({"semantic": self._semantic}, keys)

    def _semantic(self) -> np.ndarray[Any, np.dtype[np.uint8]]:
        semantic = read_labels(self.labels, self.coding)
        height, width = self.size()
        if semantic.shape != (height, width):
            raise InputError(
                f"image {self.path} is {width}x{height}, its labels {self.labels} are "
                f"{semantic.shape[1]}x{semantic.shape[0]}; a pair must have one size"
            )
        return semantic


def read_label_folders(
    images: Path,
    labels: Path,
    *,
    names: Sequence[str],
    values: Sequence[int] | None = None,
    palette: Sequence[Colour] | None = None,
    ignore: Sequence[int] = (255,),
    ignore_colours: Sequence[Colour] = (),
    image_suffix: str = "",
    label_suffix: str = "",
    listed: Path | None = None,
    files: Files = RGB,
) -> ImageSet:
    """Pair the images of one folder with the label PNGs of another, by their path in it without the suffix.

    names: of the classes, in order. values: those of the classes in index PNGs, by default 0, 1, …; `ignore` are the
    values that are no class. palette: the colours of the classes instead, for colour PNGs, with `ignore_colours`.
    image_suffix, label_suffix: the end of the file names that a pair does not share, such as `_leftImg8bit.png`;
    without, the file's extension alone. listed: a file with a name in each line (VOC's `ImageSets`), to take these
    pairs only; without, every image needs labels and all labels an image. Order: as in the list, or by name.
    """
    if palette is not None and values is not None:
        raise InputError("label PNGs have either values or a palette of colours; give one of the two")
    if palette is not None:
        coding = colour_coding(len(names), palette, ignore_colours)
    else:
        coding = value_coding(len(names), values, ignore)
    image_files = _by_name(images, files.suffixes, image_suffix, "images")
    label_files = _by_name(labels, (".png",), label_suffix, "labels")
    wanted = sorted(image_files.keys() | label_files.keys()) if listed is None else _read_list(listed)
    hint = "" if listed is not None else "; a file named by `listed` can choose the pairs to take"
    for there, folder, what in ((image_files, images, "an image"), (label_files, labels, "labels")):
        missing = [name for name in wanted if name not in there]
        if missing:
            raise InputError(
                f"{len(missing)} of {len(wanted)} pairs are without {what} in {folder} (first: {missing[0]!r}){hint}"
            )
    return ImageSet(
        source=labels,
        categories=tuple(Category(value, name) for value, name in zip(coding.original, names, strict=True)),
        images=tuple(
            LabelledImage(id, images / image_files[name], labels / label_files[name], coding, files)
            for id, name in enumerate(wanted, start=1)
        ),
    )


def _by_name(folder: Path, extensions: Sequence[str], suffix: str, what: str) -> dict[str, Path]:
    """Return the files of a folder by what a pair shares of their paths."""
    if not folder.is_dir():
        raise InputError(f"no folder of {what} at {folder}; check --data-root and the data set's folders")
    found: dict[str, Path] = {}
    for path in list_files(folder):
        if path.suffix.lower() not in extensions:
            continue
        end = suffix if suffix.endswith(path.suffix) else suffix + path.suffix
        if not path.name.endswith(end):
            continue
        name = path.as_posix().removesuffix(end)
        if name in found:
            raise InputError(f"{folder} has both {found[name]} and {path}; which one is meant is not clear")
        found[name] = path
    if not found:
        ending = f"ending in {suffix!r}" if suffix else f"({', '.join(extensions)})"
        raise InputError(f"no {what} {ending} in {folder}")
    return found


def _read_list(path: Path) -> tuple[str, ...]:
    names = read_lines(path, "list of images")
    if not names:
        raise InputError(f"{path} lists no images")
    again = {name for name in names if names.count(name) > 1} if len(set(names)) < len(names) else ()
    if again:
        raise InputError(f"{path} lists {len(again)} names more than once (first: {min(again)!r})")
    return names
