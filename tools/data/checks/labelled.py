"""Finding what is wrong with data sets that have no annotation files: label PNGs, folders of classes, CIFAR."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from ....backbones import InputError
from ..labels import read_labels
from ..sets import DataSet
from .content import ClassCount, Part
from .files import ImageFile, in_parallel, told
from .kinds import Finding
from .records import shown


@dataclass(frozen=True)
class Look:
    """What was found of one image: its file, how much of each class it has, by index, and what is wrong with that.

    faults: kinds, with details. place: where it is in its file, where that holds several.
    """

    file: ImageFile
    amounts: Mapping[int, int] = field(default_factory=dict)
    faults: tuple[tuple[str, str], ...] = ()
    place: str = ""


def look_at_labels(sample: Any, read: Callable[[Path], ImageFile]) -> Look:
    """Look at an image with a label PNG; amounts are pixels."""
    file = read(sample.path)
    try:
        classes = read_labels(sample.labels, sample.coding)
    except InputError as error:
        kind = "unknown_label" if _opens(sample.labels) else "unreadable_labels"
        return Look(file, faults=((kind, told(error, sample.labels)),))
    faults: tuple[tuple[str, str], ...] = ()
    if file.height and classes.shape != (file.height, file.width):
        high, wide = classes.shape
        faults = (("wrong_label_size", f"{sample.labels.name} is {wide}x{high}, the image {file.width}x{file.height}"),)
    counts = np.bincount(classes.ravel(), minlength=256)[:-1]
    return Look(file, {int(index): int(counts[index]) for index in counts.nonzero()[0]}, faults)


def look_at_class(sample: Any, read: Callable[[Path], ImageFile]) -> Look:
    """Look at an image in the folder of its class."""
    return Look(read(sample.path), {sample.label: 1})


def look_at_record(sample: Any) -> Look:
    """Look at an image that is a record of a file, of which the pixels are read in any case."""
    pixels, place = sample.read(), f" record {sample.index}"
    digest = blake2b(pixels.tobytes(), digest_size=16).digest()
    file = ImageFile(height=pixels.shape[0], width=pixels.shape[1], digest=digest)
    try:
        return Look(file, {int(sample.targets(("label",))["label"]): 1}, place=place)
    except InputError as error:
        return Look(file, faults=(("unknown_label", told(error, sample.path)),), place=place)


def check_samples(
    split: str,
    found: DataSet,
    root: Path,
    look: Callable[[Any], Look],
    counted: str,
    workers: int,
    console: Console,
) -> tuple[Part, list[Finding]]:
    """Look at each image of a split; `counted` says what the amounts are of. Files are named relative to `root`."""
    amounts: Counter[int] = Counter()
    images: Counter[int] = Counter()
    digests: dict[str, bytes] = {}
    findings: list[Finding] = []
    looks = in_parallel(look, found.images, workers, console, f"reading {split}")
    for sample, seen in zip(found.images, looks, strict=True):
        path = sample.path.relative_to(root) if sample.path.is_relative_to(root) else sample.path
        name = f"{path}{seen.place}"
        findings += (Finding(kind, split, shown(name), detail) for kind, detail in _faults(seen))
        amounts.update(seen.amounts)
        images.update(seen.amounts.keys())
        if seen.file.digest and not seen.file.fault:
            digests[name] = seen.file.digest
    classes = tuple(
        ClassCount(category.id, category.name, amounts[index], images[index])
        for index, category in enumerate(found.categories)
    )
    findings += (
        Finding("unused_category", split, f"category {one.id} ({shown(one.name)})") for one in classes if not one.amount
    )
    return Part(split, split, found.source, len(found.images), counted, classes, digests=digests), findings


def _faults(seen: Look) -> Iterator[tuple[str, str]]:
    if seen.file.fault:
        yield seen.file.fault, seen.file.detail
    if seen.file.cmyk:
        yield "cmyk_image", ""
    if seen.file.orientation != 1:
        yield "rotated_image", f"orientation {seen.file.orientation}"
    yield from seen.faults


def _opens(path: Path) -> bool:
    """Return whether a file is a whole image, whatever its values mean."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            image.load()
    except Exception:  # Pillow raises many types for a damaged file
        return False
    return True
