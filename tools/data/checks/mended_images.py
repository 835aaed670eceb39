"""Mending the image records of a file of annotations."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Iterable, Mapping
from typing import Any

from .boxes import reach
from .changes import Changes, said
from .files import ImageFile
from .kinds import REACH, ROUNDING
from .records import IMAGE, Box, completed, flaw, is_name, is_whole, name_of_image, read_box
from .source import Record, Source, has_other_size, same_file

TURNED = (5, 6, 7, 8)  # EXIF orientations that exchange height and width


class MendedImages:
    """The image records of a file in order. What was done is in `changes`.

    dropped: the kind of fault by the id of the image that went for it. merged: ids of images whose annotations go to
    another, which has the same file.
    """

    def __init__(self, source: Source, changes: Changes) -> None:
        self.source = source
        self.changes = changes
        self.dropped: dict[int, str] = {}
        self.merged: dict[int, int] = {}
        self.records = self._images()

    def _images(self) -> list[dict[str, Any]]:
        given = self.source.document["images"]
        boxes, ambiguous = _boxes_by_image(self.source.document["annotations"]), _ids_of_several_files(given)
        kept: dict[int, dict[str, Any]] = {}
        by_file: dict[str, int] = {}
        for position, one in enumerate(given):
            where = name_of_image(one, position)
            record = self._completed_image(one, where)
            fault = self._unusable(record, ambiguous, boxes)
            if fault:
                if is_whole(record.get("id")):
                    self.dropped[record["id"]] = fault
                self.changes.note(fault, where, "dropped with its annotations")
                continue
            id, name, file = record["id"], same_file(record["file_name"]), self.source.files[record["file_name"]]
            if id in kept:
                self.changes.note("repeated_image_id", where, "dropped: the same file is there already")
                continue
            if name in by_file:
                self.merged[id] = by_file[name]
                self.changes.note("repeated_file_name", where, f"dropped: its annotations go to image {by_file[name]}")
                continue
            if has_other_size(record, file):
                said = f"{record['width']}x{record['height']}"
                record |= {"height": file.height, "width": file.width}
                self.changes.note("wrong_size", where, f"{said} is now {file.width}x{file.height}")
            kept[id], by_file[name] = record, id
        return list(kept.values())

    def _completed_image(self, given: Any, where: str) -> dict[str, Any]:
        """Return an image record with numbers for those written as text, and the file's size where it has none."""
        wrong = flaw(given, IMAGE)
        record = completed(given, IMAGE) if isinstance(given, dict) else {}
        file = self.source.files.get(record["file_name"]) if is_name(record.get("file_name")) else None
        if wrong and file is not None and file.height:
            record |= {key: getattr(file, key) for key in ("height", "width") if not IMAGE[key](record.get(key))}
        if wrong and not flaw(record, IMAGE):
            self.changes.note("malformed_image", where, f"{wrong}; now {said(record, IMAGE)}")
        return record

    def _unusable(self, record: Record, ambiguous: Container[int], boxes: Mapping[int, list[Box]]) -> str:
        """Return the kind of fault for which an image has to go, or nothing."""
        if flaw(record, IMAGE):
            return "malformed_image"
        file = self.source.files[record["file_name"]]
        if file.fault:
            return file.fault
        if record["id"] in ambiguous:
            # Any of its annotations may be another image's, and a wrong label is worse than one image fewer.
            return "repeated_image_id"
        if has_other_size(record, file) and not _is_slip(record, file, boxes.get(record["id"], ())):
            return "wrong_size"
        return ""


def _ids_of_several_files(records: Iterable[Any]) -> set[int]:
    files = defaultdict(set)
    for record in records:
        if not flaw(record, {key: IMAGE[key] for key in ("id", "file_name")}):
            files[record["id"]].add(same_file(record["file_name"]))
    return {id for id, names in files.items() if len(names) > 1}


def _boxes_by_image(annotations: Iterable[Any]) -> dict[int, list[Box]]:
    boxes = defaultdict(list)
    for annotation in annotations:
        box = read_box(annotation.get("bbox")) if isinstance(annotation, dict) else None
        if box is not None and is_whole(annotation.get("image_id")):
            boxes[annotation["image_id"]].append(box)
    return boxes


def _is_slip(record: Record, file: ImageFile, boxes: Iterable[Box]) -> bool:
    """Return whether the size in the JSON alone is wrong, so that the boxes are those of the file.

    They are not where they do not fit, where the file has been scaled (its proportions are kept), nor where the JSON
    has the size of the image as EXIF turns it.
    """
    boxes = list(boxes)
    if not boxes:
        return True
    size, said = (file.height, file.width), (record["height"], record["width"])
    if any(reach(box, size) > REACH for box in boxes) or (file.orientation in TURNED and said == size[::-1]):
        return False
    high, wide = size[0] / said[0], size[1] / said[1]
    return bool(abs(high / wide - 1) > ROUNDING or max(abs(high - 1), abs(wide - 1)) <= ROUNDING)
