"""What is known of each image of an evaluation of detections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .average_precision import Rankings
from .matching import Array, Matches

# Of a class whose best threshold of scores is not known, because nothing of it was there or rightly found.
THRESHOLD = 0.5

# The IoU from which on a detection is right, where one is taken.
RIGHT = 0.5


class DetectionImages:
    """AP for any choice of images, and how good each image is; a PerImage of the bootstrap.

    document: COCO's, for the names of images. thresholds: of scores, one for each of the matches' categories, None
    where it is not known; what is found with less is not part of an image's quality. iou: the threshold of IoU of the
    metric, one of the matches'; None is AP, over all of them.

    Quality is panoptic quality (arXiv:1801.00868) of all classes together, at an IoU of 0.5: the sum of the IoU of what
    is right / (right + (false + missed) / 2); NaN where nothing is there and nothing was found.
    """

    def __init__(
        self,
        document: Mapping[str, Any],
        kind: str,
        matches: Matches,
        thresholds: Sequence[float | None],
        *,
        iou: float | None = None,
    ) -> None:
        file_names = {record["id"]: str(record.get("file_name", record["id"])) for record in document["images"]}
        self.names = tuple(file_names[id] for id in matches.image_ids)
        self.metric = f"{kind}/AP" if iou is None else f"{kind}/AP{round(100 * iou)}"
        self._tally = _tally(matches, confident(matches, thresholds))
        self.quality = self._tally.quality
        rows = slice(None) if iou is None else [row_of(matches, iou)]
        self._rankings = _rankings(matches, rows)

    def value(self, counts: Array) -> float:
        """Return AP if image i is there counts[i] times (images,); a class without objects then is left out.

        NaN where no class has any.
        """
        return self._rankings.value(counts)

    def describe(self, row: int) -> str:
        """Return what was found in the image of a row, such as `4 of 6 found; 2 false, 1 of them of wrong class`."""
        tally = self._tally
        right, false, missed, confused = (
            int(counts[row]) for counts in (tally.right, tally.false, tally.missed, tally.confused)
        )
        if not right + missed + false:
            return "nothing there, nothing found"
        found = f"{right} of {right + missed} found" if right + missed else "nothing there"
        wrong = f", {confused} of them of wrong class" if confused else ""
        return f"{found}; {false} false{wrong}" if false else found


def confident(matches: Matches, thresholds: Sequence[float | None]) -> Array:
    """Return (N,), bool: the detections that are kept and have at least the score that their class needs.

    thresholds: for each category; THRESHOLD where it is None.
    """
    needed = [THRESHOLD if value is None else value for value in thresholds]
    # The last is of detections that are of no category; none of them is kept.
    return np.asarray(matches.kept & (matches.score >= np.array([*needed, np.inf])[matches.category]))


def row_of(matches: Matches, iou: float) -> int:
    """Return the row of a threshold of IoU among those of the matches."""
    return int(np.abs(matches.thresholds - iou).argmin())


@dataclass(frozen=True)
class _Tally:
    """By image, all (images,): objects found, false detections, objects missed, false ones on another class's object.

    And the quality.
    """

    right: Array
    false: Array
    missed: Array
    confused: Array
    quality: Array


def _tally(matches: Matches, chosen: Array) -> _Tally:
    """Return what the chosen detections, (N,) bool, are worth."""
    row, images = row_of(matches, RIGHT), len(matches.image_ids)
    counted = chosen & ~matches.ignored[row]
    hit = counted & (matches.matched[row] >= 0)
    alarm = counted & ~hit
    objects, right, false, confused = (
        np.bincount(image, minlength=images)
        for image in (
            matches.truth_image[matches.objects],
            matches.image[hit],
            matches.image[alarm],
            matches.image[alarm & _on_others(matches)],
        )
    )
    pairs = matches.overlaps
    pairs = pairs.take(hit[pairs.found] & (matches.matched[row][pairs.found] == pairs.truth))
    overlap = np.bincount(matches.image[pairs.found], pairs.iou, images)
    whole = right + (false + objects - right) / 2
    quality = np.divide(overlap, whole, out=np.full(images, np.nan), where=whole > 0)
    return _Tally(right, false, objects - right, confused, quality)


def _on_others(matches: Matches) -> Array:
    """Return (N,), bool: the detections that lie on an object of another class."""
    pairs = matches.overlaps
    other = matches.category[pairs.found] != matches.truth_category[pairs.truth]
    on = np.zeros(len(matches.image), bool)
    on[pairs.found[other & matches.objects[pairs.truth] & (pairs.iou >= RIGHT)]] = True
    return on


def _rankings(matches: Matches, thresholds: slice | list[int]) -> Rankings:
    rows = matches.by_score(matches.kept)
    ignored = matches.ignored[thresholds][:, rows]
    return Rankings(
        len(matches.categories),
        (matches.matched[thresholds][:, rows] >= 0) & ~ignored,
        ignored,
        matches.category[rows],
        matches.image[rows],
        matches.truth_category[matches.objects],
        matches.truth_image[matches.objects],
    )
