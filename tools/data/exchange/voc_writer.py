"""The writer of Pascal VOC's format of boxes; how these count pixels says the reader."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from xml.etree import ElementTree

from .common import Box, Collection, Notes, Picture, Place, boxes_of, check_stems, stem, write_text


def write_voc(collection: Collection, folder: Path, notes: Notes, place: Place) -> None:
    """Write `Annotations/`, `JPEGImages/`, `ImageSets/Main/PART.txt` and `classes.txt`, the classes in order.

    Boxes are rounded to whole pixels, at least one, as all readers of the format take them.
    """
    classes = tuple(dict.fromkeys(collection.categories))
    if len(classes) < len(collection.categories):
        again = next(n for i, n in enumerate(collection.categories) if n in collection.categories[:i])
        notes.add("category shares its name with another, and VOC knows classes by name: they become one", again)
    everywhere = [name for part in collection.parts for name in part.names]
    apart = len({stem(name) for name in everywhere}) < len(everywhere)
    lists: dict[str, list[str]] = {}
    for part in collection.parts:
        check_stems(part.names, collection.source, ".xml")
        below = f"{part.name}/" if apart and len(collection.parts) > 1 else ""
        for picture in part.pictures:
            own = replace(picture, name=below + picture.name)
            if below:
                notes.add("images are in a folder of their part, since parts have images of one name", own.name)
            if not own.name.endswith(".jpg"):
                notes.add("images do not end in .jpg, as some programs expect of JPEGImages", own.name)
            place(own.path, folder / "JPEGImages" / own.name)
            lists.setdefault(part.name, []).append(stem(own.name))
            write_text(folder / "Annotations" / f"{stem(own.name)}.xml", _document(own, collection.categories, notes))
    if {"train", "val"} <= lists.keys():
        lists["trainval"] = lists["train"] + lists["val"]
    for part_name, names in lists.items():
        write_text(folder / "ImageSets" / "Main" / f"{part_name}.txt", "".join(f"{name}\n" for name in names))
    write_text(folder / "classes.txt", "".join(f"{name}\n" for name in classes))


def _document(picture: Picture, categories: Sequence[str], notes: Notes) -> str:
    root = ElementTree.Element("annotation")
    _add(root, "folder", "JPEGImages")
    _add(root, "filename", PurePosixPath(picture.name).name)
    size = ElementTree.SubElement(root, "size")
    for tag, value in (("width", picture.width), ("height", picture.height), ("depth", 3)):
        _add(size, tag, value)
    _add(root, "segmented", 0)
    for found, box in boxes_of(picture, notes):
        if found.segmentation is not None:
            notes.add("masks were left out: VOC's XML files have boxes", picture.name)
        element = ElementTree.SubElement(root, "object")
        _add(element, "name", categories[found.category])
        _add(element, "pose", "Unspecified")
        _add(element, "truncated", 0)
        _add(element, "difficult", int(found.difficult))
        corners = ElementTree.SubElement(element, "bndbox")
        for side, pixel in zip(("xmin", "ymin", "xmax", "ymax"), _pixels(box, picture), strict=True):
            _add(corners, side, pixel)
    ElementTree.indent(root, "\t")
    return ElementTree.tostring(root, encoding="unicode") + "\n"


def _add(parent: ElementTree.Element, tag: str, value: object) -> None:
    ElementTree.SubElement(parent, tag).text = str(value)


def _pixels(box: Box, picture: Picture) -> tuple[int, int, int, int]:
    """Return the first and last pixels of a box, from 1, at least one."""
    x, y, width, height = box
    left, top = min(round(x), picture.width - 1), min(round(y), picture.height - 1)
    return left + 1, top + 1, max(left + 1, round(x + width)), max(top + 1, round(y + height))
