"""The reader of YOLO's format, in Ultralytics' layout.

A text file for each image holds a line for each object: the class from 0, then cx cy w h of the box or x y x y … of a
polygon, all as shares of the image's width and height. The file lies where the image does, in `labels` for `images`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ....backbones import InputError
from ..formats import read_lines, read_names
from ..images import SUFFIXES, list_files, stored_size
from .common import PARTS, Box, Collection, Notes, Object, Part, Picture, check_stems

# Of a pixel. Shares that we write have eight decimals: what had up to four of a pixel comes back exactly, in images of
# up to 6,000 pixels.
DECIMALS = 4

# How far shares may reach out of 0 to 1, as Ultralytics' own check has it.
TOLERANCE = 0.01

# Keys of data.yaml for each part; Ultralytics takes `validation` for `val` too.
KEYS = {"train": ("train",), "val": ("val", "validation"), "test": ("test",)}


@dataclass(frozen=True)
class _Files:
    """The images of a part: their names, paths, and label files, of which `folder` must hold no others."""

    names: tuple[str, ...]
    images: tuple[Path, ...]
    labels: tuple[Path, ...]
    folder: Path | None


def read_yolo(source: Path, notes: Notes) -> Collection:
    """Read a folder with a `data.yaml`, or with `images/`, `labels/` and `classes.txt`; or a YAML file by its path.

    An image without a label file, or with an empty one, has no objects. A label file without an image is an InputError.
    """
    sheet = source / "data.yaml" if source.is_dir() else source
    if sheet.is_file():
        settings = _read_settings(sheet)
        names, places = _names(sheet, settings), _places(sheet, settings)
    else:
        names, places = read_names(source / "classes.txt"), _folders(source)
    parts = []
    for part, entries in places.items():
        files = _gather(entries)
        pictures = _pictures(files, names, notes)
        parts.append(Part(part, files.names, pictures))
    return Collection(source, names, tuple(parts))


def _read_settings(path: Path) -> dict[str, Any]:
    import yaml

    try:
        settings = yaml.safe_load(path.read_bytes())
    except (OSError, yaml.YAMLError) as error:
        raise InputError(f"{path} cannot be read as YAML: {' '.join(str(error).split())}") from error
    if not isinstance(settings, dict):
        raise InputError(f"{path} is not YOLO's data.yaml: it is no mapping with `names`, `train` and `val`")
    return settings


def _names(path: Path, settings: Mapping[str, Any]) -> tuple[str, ...]:
    names = settings.get("names")
    if isinstance(names, dict) and sorted(names, key=str) == sorted(range(len(names)), key=str):
        names = [names[index] for index in range(len(names))]
    if not isinstance(names, list) or not names:
        raise InputError(f"{path} has names: {names!r}; a list of the classes' names, or 0: NAME, 1: …, is needed")
    return tuple(map(str, names))


def _places(path: Path, settings: Mapping[str, Any]) -> dict[str, list[Path]]:
    """Return the folders, or lists of images, that data.yaml names for each part."""
    root = path.parent
    # Ultralytics looks for a relative `path` in a folder of its own settings: where it is not here, it is this folder.
    if (root / str(settings.get("path") or "")).is_dir():
        root = root / str(settings.get("path") or "")
    found = {}
    for part, keys in KEYS.items():
        given = next((settings[key] for key in keys if settings.get(key)), None)
        if given is not None:
            entries = given if isinstance(given, list) else [given]
            found[part] = [_existing(path, root, str(entry)) for entry in entries]
    if not found:
        raise InputError(f"{path} names no images: it has none of the keys {', '.join(KEYS)}")
    return found


def _existing(path: Path, root: Path, entry: str) -> Path:
    # Roboflow's files say ../train/images for train/images.
    for candidate in (root / entry, root / entry.removeprefix("../")):
        if candidate.exists():
            return candidate
    raise InputError(f"{path} names images at {root / entry}, where nothing is")


def _folders(source: Path) -> dict[str, list[Path]]:
    """Return the folders of images for each part, where only `classes.txt` says what the data set is."""
    images = source / "images"
    if not images.is_dir():
        raise InputError(f"{source} has neither a data.yaml nor a folder `images` beside a classes.txt")
    parts = {part: [images / part] for part in PARTS if (images / part).is_dir()}
    return parts or {"train": [images]}


def _gather(entries: Sequence[Path]) -> _Files:
    """Return the files of a part from its entry: one folder, several, or a text file that lists images."""
    if len(entries) == 1 and entries[0].is_dir():
        folder = entries[0]
        names = [path.as_posix() for path in list_files(folder) if path.suffix.lower() in SUFFIXES]
        images = [folder / name for name in names]
        beside = _label_file(folder / "x").parent
        return _files(names, images, folder, beside if beside != folder else None)
    images = [image for entry in entries for image in (_inside(entry) if entry.is_dir() else _listed(entry))]
    shared = Path(*_shared([image.parent.parts for image in images]))
    return _files([image.relative_to(shared).as_posix() for image in images], images, shared, None)


def _files(names: Sequence[str], images: Sequence[Path], source: Path, folder: Path | None) -> _Files:
    if not images:
        raise InputError(f"no images in {source}; files ending in {', '.join(SUFFIXES)} are read")
    check_stems(names, source, ".txt")
    labels = tuple(_label_file(image) for image in images)
    if folder is not None and folder.is_dir():
        known = set(labels)
        for path in list_files(folder):
            # labelImg leaves a classes.txt among the labels.
            if path.suffix == ".txt" and path.name != "classes.txt" and folder / path not in known:
                raise InputError(f"{folder / path} has no image: {source} has no {path.stem} with a suffix of images")
    return _Files(tuple(names), tuple(images), labels, folder)


def _inside(folder: Path) -> list[Path]:
    return [folder / path for path in list_files(folder) if path.suffix.lower() in SUFFIXES]


def _listed(path: Path) -> list[Path]:
    """Return the images that a text file lists, from its own folder where their paths are relative."""
    images = [path.parent / line for line in read_lines(path, "list of images")]
    for number, image in enumerate(images, start=1):
        if ".." in image.parts or not image.is_file():
            raise InputError(f"line {number} of {path} names {image}, which is not there or leads outwards by `..`")
    return images


def _shared(paths: Sequence[Sequence[str]]) -> list[str]:
    """Return the folders that all paths begin with."""
    shared = []
    for level in zip(*paths, strict=False):
        if len(set(level)) > 1:
            break
        shared.append(level[0])
    return shared


def _label_file(image: Path) -> Path:
    """Return where the labels of an image are: in `labels` for the last `images` of its path, else beside it."""
    folders = list(image.parent.parts)
    if "images" in folders:
        folders[len(folders) - 1 - folders[::-1].index("images")] = "labels"
    return Path(*folders, image.name).with_suffix(".txt")


def _pictures(files: _Files, names: Sequence[str], notes: Notes) -> Iterator[Picture]:
    for name, image, labels in zip(files.names, files.images, files.labels, strict=True):
        height, width = stored_size(image)
        if _is_turned(image):
            notes.add("images are stored turned (EXIF), and labels were taken to be of the stored pixels", name)
        objects = tuple(_objects(labels, width, height, len(names))) if labels.is_file() else ()
        yield Picture(image, name, height, width, objects)


def _is_turned(path: Path) -> bool:
    """Return whether an image is shown in another orientation than it is stored in.

    Ultralytics takes labels to be of what is shown, other programs of what is stored.
    """
    from PIL import ExifTags, Image

    if path.suffix.lower() not in (".jpg", ".jpeg"):  # others seldom say, and Pillow decodes a PNG to see
        return False
    try:
        with Image.open(path) as image:
            return bool(image.getexif().get(ExifTags.Base.Orientation, 1) != 1)
    except Exception:  # Pillow raises many types for damaged EXIF data, which turn nothing
        return False


def _objects(path: Path, width: int, height: int, classes: int) -> Iterator[Object]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"labels {path} cannot be read ({error}); a text file is needed") from error
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                yield _object(line.split(), width, height, classes)
            except ValueError as error:
                raise InputError(f"line {number} of {path} {error}") from error


def _object(fields: Sequence[str], width: int, height: int, classes: int) -> Object:
    """Read the fields of a line; a ValueError says what is wrong with it, to go on from `line 3 of FILE`."""
    if len(fields) != 5 and (len(fields) < 7 or len(fields) % 2 == 0):
        raise ValueError(
            f"has {len(fields)} numbers; a box has 5 (class cx cy w h), a polygon 7, 9, … (class x y x y x y …)"
        )
    try:
        kind, *shares = map(float, fields)
    except ValueError:
        raise ValueError(f"has {' '.join(fields)[:60]!r}; only numbers are allowed") from None
    if kind not in range(classes):
        raise ValueError(f"has class {fields[0]}; there are {classes}, from 0 to {classes - 1}")
    odd = next((field for field, share in zip(fields[1:], shares, strict=True) if not _is_share(share)), None)
    if odd is not None:
        raise ValueError(f"has {odd}; all but the class are shares of the image's width and height, from 0 to 1")
    if len(shares) == 4:
        cx, cy, w, h = shares
        return Object(int(kind), _rounded((cx - w / 2) * width, (cy - h / 2) * height, w * width, h * height))
    points = np.round(np.array(shares).reshape(-1, 2) * (width, height), DECIMALS)
    (x1, y1), (x2, y2) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
    return Object(int(kind), _rounded(x1, y1, x2 - x1, y2 - y1), [points.reshape(-1)])


def _is_share(value: float) -> bool:
    return math.isfinite(value) and -TOLERANCE <= value <= 1 + TOLERANCE


def _rounded(x: float, y: float, width: float, height: float) -> Box:
    return round(x, DECIMALS), round(y, DECIMALS), round(width, DECIMALS), round(height, DECIMALS)
