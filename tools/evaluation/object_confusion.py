"""Which classes are found for which objects, and what is found where nothing is, or not found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .detection_images import RIGHT, confident
from .matching import Array, Matches, assign, ranks

BACKGROUND = "background"


@dataclass(frozen=True)
class ObjectConfusion:
    """counts[i][j]: so many objects of class i were found as class j, (K + 1, K + 1), int64.

    The last row is the background: what was found where no object is. The last column: objects that were not found.
    names: of the K classes, and BACKGROUND.
    """

    names: tuple[str, ...]
    counts: Array


def object_confusion(matches: Matches, thresholds: Sequence[float | None]) -> ObjectConfusion:
    """Return the confusion matrix of detections that have the score their class needs, as in DetectionImages.

    In the order of scores each takes the object of its image, of any class, with the highest IoU that no other has
    taken, at least 0.5; of equal ones that of its own class. What then lies in a crowd of its class is not counted, nor
    are crowds.
    """
    chosen = confident(matches, thresholds)
    pairs = matches.overlaps.take(chosen[matches.overlaps.found])
    own = matches.category[pairs.found] == matches.truth_category[pairs.truth]
    ignored = matches.truth_ignored[pairs.truth]
    claims = pairs.take(~ignored).preferred(-pairs.iou[~ignored], ~own[~ignored], pairs.truth[~ignored])
    of_image = ranks(np.where(chosen, matches.image, -1), matches.score)
    (matched,) = assign(claims, of_image, np.array([RIGHT]), np.zeros_like(matches.truth_ignored))
    swallowed = np.zeros_like(chosen)
    swallowed[pairs.found[own & ignored & (pairs.iou >= RIGHT)]] = True

    background = len(matches.categories)
    counted = chosen & ((matched >= 0) | ~swallowed)
    missed = matches.objects
    missed[matched[matched >= 0]] = False
    # Of each pair the row and the column: what was found, then what was not.
    rows = np.append(np.append(matches.truth_category, background)[matched[counted]], matches.truth_category[missed])
    columns = np.append(matches.category[counted], np.full(missed.sum(), background))
    counts = np.bincount(rows * (background + 1) + columns, minlength=(background + 1) ** 2)
    counts = counts.reshape(background + 1, background + 1)
    return ObjectConfusion((*(category.name for category in matches.categories), BACKGROUND), counts)
