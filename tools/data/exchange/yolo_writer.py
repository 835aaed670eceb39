"""The writer of YOLO's format, in Ultralytics' layout; what its files hold says the reader."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..sets import Array
from .common import Box, Collection, Notes, Object, Picture, Place, boxes_of, check_stems, stem, write_text
from .outlines import one_polygon

Line = Callable[[Object, Box, Picture, Notes], Sequence[float]]  # the shares of an object, after its class


def box_line(found: Object, box: Box, picture: Picture, notes: Notes) -> Sequence[float]:
    """Return cx cy w h of the box; that a mask is lost is noted."""
    if found.segmentation is not None:
        notes.add("masks were left out: lines of boxes have none (--to yolo-seg writes polygons)", picture.name)
    x, y, width, height = box
    centre = (x + width / 2) / picture.width, (y + height / 2) / picture.height
    return *centre, width / picture.width, height / picture.height


def outline_line(found: Object, box: Box, picture: Picture, notes: Notes) -> Sequence[float]:
    """Return x y x y … of the mask's outline, its polygons as one; of an object without a mask the box's corners."""
    points = np.zeros((0, 2))
    if found.segmentation is not None:
        points = one_polygon(found.segmentation, picture.height, picture.width)
    if not len(points):
        # A line of a box among those of polygons would be read as a polygon of two points.
        notes.add("objects without a mask have the corners of their box for a polygon", picture.name)
        x, y, width, height = box
        points = np.array([(x, y), (x + width, y), (x + width, y + height), (x, y + height)])
    shares: Array = np.clip(points / (picture.width, picture.height), 0, 1)
    return [float(share) for share in shares.reshape(-1)]


def write_yolo(collection: Collection, folder: Path, notes: Notes, place: Place, *, line: Line) -> None:
    """Write `images/PART/`, `labels/PART/` with a file for every image, and `data.yaml`, which Ultralytics reads.

    Classes count from 0, in the order of the categories.
    """
    import yaml

    for part in collection.parts:
        check_stems(part.names, collection.source, ".txt")
        for picture in part.pictures:
            place(picture.path, folder / "images" / part.name / picture.name)
            lines = []
            for found, box in boxes_of(picture, notes):
                shares = line(found, box, picture, notes)
                lines.append(" ".join([str(found.category), *(f"{share:.8f}" for share in shares)]) + "\n")
            write_text(folder / "labels" / part.name / f"{stem(picture.name)}.txt", "".join(lines))
    # Without `path`: it would be taken from the working directory, and is this file's folder by default.
    settings: dict[str, Any] = {part.name: f"images/{part.name}" for part in collection.parts}
    settings["names"] = dict(enumerate(collection.categories))
    write_text(folder / "data.yaml", yaml.safe_dump(settings, sort_keys=False, allow_unicode=True))
    for needed in ("train", "val"):
        if needed not in settings:
            notes.add("part that Ultralytics needs for training is not in the data set", needed)
