"""What a source of `data convert` is, and the reader of each format."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..backbones import InputError
from .config import read_data
from .data.coco import CocoSet
from .data.exchange.coco import read_coco_sets
from .data.exchange.common import PARTS, Collection, Notes
from .data.exchange.label_pngs import read_label_sets
from .data.exchange.voc_reader import read_voc
from .data.exchange.yolo_reader import read_yolo
from .settings import Data, Labels, Split
from .sources import coco_files, open_split


@dataclass(frozen=True)
class Reader:
    """How a format is known by what lies in a folder, and read; `what` it reads is for messages."""

    what: str
    found_in: Callable[[Path], bool]
    read: Callable[[str, str | None, Notes], Collection]  # from a source, and `--data-root`


def recognise(source: str) -> str:
    """Return the format of a source: an annotation file, a folder, or what `--data` takes."""
    path = Path(source)
    if path.suffix == ".json":
        return "coco"
    if path.is_dir() and not (path / "data.yaml").is_file():
        found = [name for name, reader in READERS.items() if reader.found_in(path)]
        if len(found) == 1:
            return found[0]
        if found:
            raise InputError(f"{path} may be in the format {' or '.join(found)}; say which with --from")
        known = "; ".join(f"{name}: {reader.what}" for name, reader in READERS.items())
        raise InputError(f"{path} is in no format that is known: {known}")
    sheet = path / "data.yaml" if path.is_dir() else path
    if sheet.suffix in (".yaml", ".yml") and sheet.is_file() and "data" not in _keys(sheet):
        return "yolo"
    data = read_data(str(sheet) if path.is_dir() else source)
    return "png" if any(_split(data, name).labels for name in PARTS) else "coco"


def _keys(path: Path) -> Mapping[str, Any]:
    """Return what a YAML file maps; nothing where it cannot be read, which is for its reader to say."""
    import yaml

    try:
        settings = yaml.safe_load(path.read_bytes())
    except (OSError, yaml.YAMLError):
        return {}
    return settings if isinstance(settings, dict) else {}


def _split(data: Data, name: str) -> Split:
    found: Split = getattr(data, name)
    return found


def _data(root: str, splits: Mapping[str, Split], labels: Labels) -> Data:
    train, val, test = (splits.get(name, Split()) for name in PARTS)
    return Data(root=root, train=train, val=val, test=test, labels=labels)


def _has(folder: Path, *patterns: str) -> bool:
    return any(next(folder.glob(pattern), None) is not None for pattern in patterns)


# --- COCO -----------------------------------------------------------------------------------------------------------


def _read_coco(source: str, root: str | None, notes: Notes) -> Collection:
    path = Path(source)
    if path.suffix == ".json":
        data = _coco_data([path], root)
    elif path.is_dir() and not (path / "data.yaml").is_file():
        data = _coco_data(_annotation_files(path), None)
    else:
        data = read_data(str(path / "data.yaml") if path.is_dir() else source, root)
    there = {file.split for file in coco_files(data)}
    if data.split is not None:
        there |= {name for name in ("val", "test") if getattr(data.split, name)}
    sets = []
    for name in (part for part in PARTS if part in there):
        found = open_split(data, name, ("boxes", "labels"))
        assert isinstance(found, CocoSet)
        sets.append((name, found))
    if not sets:
        raise InputError(f"{source} names no annotations in COCO's format")
    return read_coco_sets(sets, notes)


def _annotation_files(folder: Path) -> list[Path]:
    """Return the annotation files of a folder, as COCO, Roboflow, CVAT and Label Studio lay it out."""
    for pattern in ("annotations/instances_*.json", "annotations/*.json", "*/_annotations.coco.json", "result.json"):
        found = sorted(folder.glob(pattern))
        if found:
            return found
    raise InputError(f"{folder} has no annotations in COCO's format: {READERS['coco'].what}")


def _coco_data(files: list[Path], root: str | None) -> Data:
    """Return the settings of a data set of these files, each a part by its name; `root` has a single one's images."""
    splits: dict[str, Split] = {}
    for path in files:
        if not path.is_file():
            raise InputError(f"no annotations at {path}")
        name = _stem(path)
        part = next((part for part in PARTS if name.startswith(part)), "train")
        if part in splits:
            raise InputError(f"{path} and {splits[part].annotations} are both for {part}; convert one file at a time")
        images = Path(root) if root is not None else _images_of(path)
        splits[part] = Split(images=str(images.absolute()), annotations=str(path.absolute()))
    return _data(".", splits, Labels())


def _stem(path: Path) -> str:
    """Return what names the part: `val2017` of instances_val2017.json, `valid` of valid/_annotations.coco.json."""
    return path.parent.name if path.name == "_annotations.coco.json" else path.stem.removeprefix("instances_")


def _images_of(path: Path) -> Path:
    """Return the folder of images that belongs to an annotation file, by its name; else the file's own."""
    above = path.parent.parent
    places = [above / _stem(path), above / "images" / _stem(path), above / "images"]
    if path.parent.name != "annotations":
        places = []  # Label Studio's file_name begins with images/, Roboflow's images lie beside the file
    return next((place for place in places if place.is_dir()), path.parent)


# --- label PNGs -----------------------------------------------------------------------------------------------------


def _read_pngs(source: str, root: str | None, notes: Notes) -> Collection:
    path = Path(source)
    if path.is_dir() and not (path / "data.yaml").is_file():
        data = _data(source, _png_splits(path), Labels(names_file="classes.txt"))
    else:
        data = read_data(str(path / "data.yaml") if path.is_dir() else source, root)
    there = [name for name in PARTS if _split(data, name).labels]
    if not there:
        raise InputError(f"{source} names no folders of label PNGs")
    home = Path(data.root or ".")
    sets = [(name, home / _split(data, name).images, open_split(data, name, ("semantic",))) for name in there]
    return read_label_sets(sets, notes)


def _png_splits(folder: Path) -> dict[str, Split]:
    parts = [part for part in PARTS if (folder / "labels" / part).is_dir()]
    if parts:
        return {part: Split(images=f"images/{part}", labels=f"labels/{part}") for part in parts}
    return {"train": Split(images="images", labels="labels")}


# --- the tables -----------------------------------------------------------------------------------------------------

READERS = {
    "coco": Reader(
        "annotations/*.json, result.json, or PART/_annotations.coco.json",
        lambda folder: _has(folder, "annotations/*.json", "*/_annotations.coco.json", "result.json"),
        _read_coco,
    ),
    "yolo": Reader(
        "data.yaml, or images/, labels/*.txt and classes.txt",
        lambda folder: _has(folder, "labels/*.txt", "labels/*/*.txt"),
        lambda source, root, notes: read_yolo(Path(source), notes),
    ),
    "voc": Reader(
        "Annotations/*.xml and JPEGImages/",
        lambda folder: _has(folder, "Annotations/*.xml", "Annotations/*/*.xml"),
        lambda source, root, notes: read_voc(Path(source), notes),
    ),
    "png": Reader(
        "images/, labels/*.png and classes.txt",
        lambda folder: _has(folder, "labels/*.png", "labels/*/*.png"),
        _read_pngs,
    ),
}
