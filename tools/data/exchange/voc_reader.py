"""The reader of Pascal VOC's format of boxes.

An XML file for each image. Its boxes count pixels from 1, and the last pixel belongs to them: a box of COCO's at x, `w`
wide, has xmin = x + 1 and xmax = x + w.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from xml.etree import ElementTree

from ....backbones import InputError
from ..formats import read_lines, read_names
from ..images import SUFFIXES, list_files, stored_size
from .common import PARTS, Box, Collection, Notes, Object, Part, Picture, stem
from .plain_xml import LINE, read_xml


def read_voc(folder: Path, notes: Notes) -> Collection:
    """Read `Annotations/*.xml` with the images in `JPEGImages/`; `ImageSets/Main/` says which part they are of.

    `train.txt`, `val.txt` and `test.txt` are parts; without these, one of another name is `train`, and so are all files
    where there is none. The classes are those of `classes.txt` where there is one, else those found, in order of name.
    Difficult objects are objects, with their mark.
    """
    annotations = folder / "Annotations"
    if not annotations.is_dir():
        raise InputError(f"no folder Annotations in {folder}; Pascal VOC's XML files are read from there")
    stems = [stem(path.as_posix()) for path in list_files(annotations) if path.suffix.lower() == ".xml"]
    if not stems:
        raise InputError(f"{annotations} has no XML files")
    parts = _parts(folder, stems)
    listed = {name for names in parts.values() for name in names}
    for name in stems:
        if name not in listed:
            notes.add("XML files are in no list of ImageSets/Main and were left out", f"{name}.xml")
    # All are read first: only they tell what classes there are.
    read = {part: [_read(folder, name, notes) for name in names] for part, names in parts.items()}
    names = _classes(folder, [name for found in read.values() for _, kinds in found for name, _ in kinds])
    position = {name: index for index, name in enumerate(names)}
    return Collection(
        folder,
        names,
        tuple(
            Part(part, tuple(picture.name for picture, _ in found), [_sorted_in(*one, position) for one in found])
            for part, found in read.items()
        ),
    )


Kinds = tuple[tuple[str, str], ...]  # the class of each object by its name, and where it stands, for messages


def _parts(folder: Path, stems: Sequence[str]) -> dict[str, list[str]]:
    lists = folder / "ImageSets" / "Main"
    files = {part: lists / f"{part}.txt" for part in PARTS if (lists / f"{part}.txt").is_file()}
    if not files and (others := sorted(lists.glob("*.txt"))):
        if len(others) > 1 and lists / "trainval.txt" not in others:
            raise InputError(f"{lists} has {len(others)} lists, but none of {', '.join(f'{p}.txt' for p in PARTS)}")
        files = {"train": lists / "trainval.txt" if lists / "trainval.txt" in others else others[0]}
    if not files:
        return {"train": list(stems)}
    known = set(stems)
    parts = {part: list(read_lines(path, "list of images")) for part, path in files.items()}
    for part, path in files.items():
        for number, name in enumerate(parts[part], start=1):
            if name not in known:
                raise InputError(f"line {number} of {path} names {name!r}, but there is no Annotations/{name}.xml")
    return parts


def _classes(folder: Path, found: Sequence[str]) -> tuple[str, ...]:
    path = folder / "classes.txt"
    return read_names(path) if path.is_file() else tuple(sorted(set(found)))


def _sorted_in(picture: Picture, kinds: Kinds, position: Mapping[str, int]) -> Picture:
    """Return the picture with the categories of its objects, which are known by name so far."""
    for name, where in kinds:
        if name not in position:
            raise InputError(f"{where} has class {name!r}, which classes.txt does not name")
    objects = tuple(
        replace(found, category=position[name]) for found, (name, _) in zip(picture.objects, kinds, strict=True)
    )
    return replace(picture, objects=objects)


def _read(folder: Path, name: str, notes: Notes) -> tuple[Picture, Kinds]:
    path = folder / "Annotations" / f"{name}.xml"
    root = read_xml(path)
    if root.tag != "annotation":
        raise InputError(f"{path} is not Pascal VOC's: it holds <{root.tag}>, not <annotation>")
    image = _image(folder / "JPEGImages", name, root.findtext("filename"), path)
    height, width = stored_size(image)
    stated = root.findtext("size/width", "0").strip(), root.findtext("size/height", "0").strip()
    if stated not in (("0", "0"), (str(width), str(height))):
        raise InputError(
            f"{path} says {'x'.join(stated)}, image {image} is {width}x{height}; were the images resized after they "
            "were labelled?"
        )
    objects, kinds = [], []
    for element in root.findall("object"):
        where = f"line {element.get(LINE)} of {path}"
        kinds.append((_text(element, "name", where), where))
        objects.append(Object(0, _box(element, where), difficult=_text(element, "difficult", where, "0") == "1"))
        if min(objects[-1].box[:2]) < 0:
            notes.add("boxes begin at 0 where VOC counts pixels from 1: is the file of a program that does not?", name)
    below = PurePosixPath(image.relative_to(folder / "JPEGImages").as_posix()).as_posix()
    return Picture(image, below, height, width, tuple(objects)), tuple(kinds)


def _image(folder: Path, name: str, filename: str | None, path: Path) -> Path:
    """Return the image that an XML file names, or the one of the file's own name, beside it in the other folder."""
    place = folder / PurePosixPath(name).parent
    given = [PurePosixPath(filename.strip().replace("\\", "/")).name] if filename and filename.strip() else []
    own = PurePosixPath(name).name
    for candidate in (*given, *(own + suffix for suffix in SUFFIXES), *(own + suffix.upper() for suffix in SUFFIXES)):
        if (place / candidate).is_file():
            return place / candidate
    raise InputError(f"{path} has no image: {folder} has neither {given[0] if given else own} nor another {own}")


def _text(element: ElementTree.Element, tag: str, where: str, default: str = "") -> str:
    text = (element.findtext(tag) or "").strip() or default
    if not text:
        raise InputError(f"{where}: the object has no <{tag}>")
    return text


def _box(element: ElementTree.Element, where: str) -> Box:
    corners = []
    for side in ("xmin", "ymin", "xmax", "ymax"):
        text = _text(element, f"bndbox/{side}", where)
        try:
            corners.append(float(text))
        except ValueError:
            corners.append(math.nan)
        if not math.isfinite(corners[-1]):
            raise InputError(f"{where}: the object has {text!r} for <{side}>; a number is needed")
    x1, y1, x2, y2 = corners
    return x1 - 1, y1 - 1, x2 - x1 + 1, y2 - y1 + 1
