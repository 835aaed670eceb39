"""Mending the annotations of a file, once its images and categories are in order."""

from __future__ import annotations

from collections.abc import Container, Iterator
from itertools import count
from typing import Any

from .boxes import Mask, Size, clipped, is_short, read_mask
from .changes import Changes, said
from .coco import Seen, box_faults
from .mended_images import MendedImages
from .records import (
    ANNOTATION,
    as_number,
    box_text,
    completed,
    flaw,
    is_absent_or_number,
    is_whole,
    name_of_annotation,
    read_box,
)
from .source import Record


class MendedAnnotations:
    """The annotations of a file in order, `records`. What was done is in `changes`."""

    def __init__(self, given: list[Any], images: MendedImages, categories: Container[int], changes: Changes) -> None:
        self.images = images
        self.sizes: dict[int, Size] = {image["id"]: (image["height"], image["width"]) for image in images.records}
        self.categories = categories
        self.changes = changes
        self.records = self._annotations(given)

    def _annotations(self, given: list[Any]) -> list[dict[str, Any]]:
        taken = {a["id"] for a in given if isinstance(a, dict) and is_whole(a.get("id"))}
        free = (id for id in count(1) if id not in taken)
        seen, used, kept = Seen(), set[int](), []
        for position, annotation in enumerate(given):
            where = name_of_annotation(annotation, position)
            record = self._annotation(annotation, where, free)
            if record is None:
                continue
            box = read_box(record["bbox"])
            equal = seen.equal(record, box) if box else None
            if equal is not None:
                self.changes.note("duplicate_box", where, f"dropped: annotation {equal['id']} is its equal")
                continue
            if record["id"] in used:
                record["id"] = next(free)
                self.changes.note("repeated_annotation_id", where, f"is now annotation {record['id']}")
            used.add(record["id"])
            kept.append(record)
        return kept

    def _annotation(self, given: Any, where: str, free: Iterator[int]) -> dict[str, Any] | None:
        """Return an annotation in order, or None where it has to go."""
        wrong = flaw(given, ANNOTATION)
        record = completed(given, ANNOTATION) if isinstance(given, dict) else {}
        image, category = record.get("image_id"), record.get("category_id")
        if image is None or not is_whole(image) or not is_whole(category):
            self.changes.note("malformed_annotation", where, "dropped")
            return None
        image = self.images.merged.get(image, image)
        if image not in self.sizes:
            self.changes.note(
                self.images.dropped.get(image, "unknown_image"), where, f"dropped: it is of image {image}"
            )
            return None
        if category not in self.categories:
            self.changes.note("unknown_category", where, f"dropped: it is of category {category}")
            return None
        record["image_id"] = image
        if not is_whole(record.get("id")):
            record["id"] = next(free)
        mask = self._mask(record, where)
        box = self._box(record, mask, where)
        if box is None:
            return None
        before = [given.get(key) for key in ("bbox", "segmentation")]
        record["bbox"] = box
        is_new = [box, record.get("segmentation")] != before or not is_absent_or_number(record.get("area"))
        if "area" in record and is_new:
            record["area"] = mask.area() or box[2] * box[3]
        if wrong:
            self.changes.note("malformed_annotation", where, f"{wrong}; now {said(record, ANNOTATION)}")
        return record

    def _mask(self, record: dict[str, Any], where: str) -> Mask:
        """Leave the annotation the polygons that are some, or none, and return its mask."""
        mask = read_mask(record, self.sizes[record["image_id"]])
        if mask.flaw:
            record["segmentation"] = []
            self.changes.note("malformed_mask", where, f"emptied: it {mask.flaw}")
        elif mask.short:
            record["segmentation"] = [polygon for polygon in record["segmentation"] if not is_short(polygon)]
            self.changes.note("short_polygon", where, f"{mask.short} dropped, {len(record['segmentation'])} left")
        return mask

    def _box(self, record: Record, mask: Mask, where: str) -> list[float] | None:
        """Return the annotation's box in order, or None where the annotation has to go."""
        size, given = self.sizes[record["image_id"]], record.get("bbox")
        value = [as_number(side) for side in given] if isinstance(given, list) and read_box(given) is None else given
        faults = [kind for kind, _ in box_faults(value, mask, size)]
        kind, box = (faults or ["malformed_box"])[-1], read_box(value)
        if faults == ["box_outside"] and box is not None:
            box = clipped(box, size)
        elif faults:
            box = mask.box
        if box is None:
            self.changes.note(kind, where, f"dropped: bbox {box_text(given)}")
            return None
        if not faults and value == given:
            return given
        self.changes.note(kind, where, f"bbox {box_text(given)} is now {box_text(list(box))}")
        return list(box)
