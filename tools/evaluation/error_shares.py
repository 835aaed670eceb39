"""What each kind of error costs: TIDE (arXiv:2008.08115)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from .average_precision import average_precision
from .matching import Array, Matches, assign, ranks
from .overlaps import Overlaps

# TIDE's: with less IoU a detection is false, and with less than this it is on the background.
RIGHT, BACKGROUND = 0.5, 0.1

# Recalls as TIDE has them, which are not to the bit COCO's.
RECALLS = np.arange(101) / 100

MEANINGS = {
    "Cls": "right place, wrong class",
    "Loc": "right class, box or mask too far off",
    "Both": "wrong class, and box or mask too far off",
    "Dupe": "right, but another detection of higher score has the object",
    "Bkg": "nothing there",
    "Miss": "object that nothing was found near",
    "FalsePos": "all false detections together",
    "FalseNeg": "all objects not found together",
}

# The errors that are detections.
FALSE = ("Cls", "Loc", "Both", "Dupe", "Bkg")


@dataclass(frozen=True)
class Shares:
    """AP at an IoU of 0.5 in points (0 to 100), and by the names of MEANINGS what it gains once an error is mended.

    It is TIDE's AP: the mean over the classes that are among the objects or the detections, of the best `max_dets`
    detections of an image, of all classes together. Gains do not add up. counts: how often each error is made; the last
    two have none.
    """

    AP50: float
    gains: Mapping[str, float]
    counts: Mapping[str, int]


def error_shares(matches: Matches) -> Shares:
    """Return the shares as TIDE has them: mend all errors of a kind, and see how far AP at an IoU of 0.5 rises.

    A wrong class or place is mended by making the detection right, if its object was not found and no better detection
    claims it, else by taking it away; duplicates, both and background are taken away; a missed object is left out.
    """
    judged = _judge(matches)
    base = _points(judged.category, judged.score, judged.right, judged.objects, ~judged.ignored)
    of_kind = {name: judged.kind == number for number, name in enumerate(FALSE)}
    gains = {name: _mended(judged, chosen) - base for name, chosen in of_kind.items()}
    nothing = np.zeros_like(judged.right)
    gains["Miss"] = _mended(judged, nothing, fewer=judged.missed) - base
    # A negative gain comes from the steps of the curve, and is none.
    gains = {name: max(gain, 0.0) for name, gain in gains.items()}
    right_first = replace(judged, score=judged.right.astype(np.float64))
    gains["FalsePos"] = _mended(right_first, nothing) - base
    gains["FalseNeg"] = _mended(judged, nothing, fewer=judged.unfound) - base
    counts = {name: int(chosen.sum()) for name, chosen in of_kind.items()}
    return Shares(base, gains, {**counts, "Miss": int(judged.missed.sum())})


@dataclass(frozen=True)
class _Judged:
    """The D detections that count in TIDE, in its order, what is wrong with each, and the objects of the K classes.

    right: bool. ignored: bool, false ones that lie in a crowd; they do not count unless they are made right. kind:
    index into FALSE, or -1. mended: the class for which it is right once its error is mended, or -1, when it is taken
    away. objects, missed, unfound (K,): how many there are, are not even claimed, and are not found.
    """

    category: Array
    score: Array
    right: Array
    ignored: Array
    kind: Array
    mended: Array
    objects: Array
    missed: Array
    unfound: Array


def _judge(matches: Matches) -> _Judged:
    of_image = ranks(np.where(matches.kept, matches.image, -1), matches.score)
    chosen = matches.kept & (of_image < matches.max_dets)
    pairs = matches.overlaps.take(chosen[matches.overlaps.found])
    own = matches.category[pairs.found] == matches.truth_category[pairs.truth]
    crowd = matches.truth_crowd[pairs.truth]

    claims = _closest(pairs.take(own & ~crowd))
    (matched,) = assign(claims, matches.rank, np.array([RIGHT]), np.zeros_like(matches.truth_crowd))
    used = np.zeros_like(matches.truth_crowd)
    used[matched[matched >= 0]] = True
    swallowed = np.zeros_like(chosen)
    swallowed[pairs.found[own & crowd & (pairs.iou > RIGHT)]] = True
    kind, aim = _kinds(claims, _closest(pairs.take(~own & ~crowd)), used, len(chosen))

    rows = np.flatnonzero(chosen)
    rows = rows[np.lexsort((of_image[rows], matches.image[rows]))]
    right = matched[rows] >= 0
    mended, claimed = _mendable(np.where(right, -1, aim[rows]), used, matches.truth_category)
    there = (matches.truth_image >= 0) & (matches.truth_category >= 0) & ~matches.truth_crowd
    objects, missed, unfound = (
        np.bincount(matches.truth_category[some], minlength=len(matches.categories))
        for some in (there, there & ~used & ~claimed, there & ~used)
    )
    return _Judged(
        matches.category[rows],
        matches.score[rows],
        right,
        swallowed[rows] & ~right,
        np.where(right, -1, kind[rows]),
        mended,
        objects,
        missed,
        unfound,
    )


def _closest(pairs: Overlaps) -> Overlaps:
    """Return the pairs, the highest IoU of a detection first, of equal ones the first object."""
    return pairs.preferred(-pairs.iou, pairs.truth)


def _kinds(own: Overlaps, others: Overlaps, used: Array, count: int) -> tuple[Array, Array]:
    """Return what is wrong with each of `count` detections if it is not right, and the object it is meant for or -1.

    own, others: the pairs with objects of its class and of other classes. used: whether an object is found.
    """
    iou, object_ = own.first(count)
    other_iou, other = others.first(count)
    taken_iou, _ = own.take(used[own.truth]).first(count)
    tests = {
        "Loc": (iou >= BACKGROUND) & (iou <= RIGHT),
        "Cls": other_iou >= RIGHT,
        "Dupe": taken_iou >= RIGHT,
        "Bkg": np.maximum(iou, other_iou) <= BACKGROUND,
    }
    # The first test that holds, in TIDE's order.
    kind = np.select(list(tests.values()), [FALSE.index(name) for name in tests], FALSE.index("Both"))
    aim = np.select([kind == FALSE.index("Loc"), kind == FALSE.index("Cls")], [object_, other], -1)
    return kind, aim


def _mendable(aim: Array, used: Array, truth_category: Array) -> tuple[Array, Array]:
    """Return for which class each detection can be made right, or -1, and which objects, bool, some claim so.

    aim: the object each is meant for, or -1. Of those that claim one object the first, of the highest score, has it.
    """
    free = np.flatnonzero((aim >= 0) & ~np.append(used, True)[aim])
    objects, first = np.unique(aim[free], return_index=True)
    mended, claimed = np.full(len(aim), -1), np.zeros_like(used)
    mended[free[first]] = truth_category[objects]
    claimed[objects] = True
    return mended, claimed


def _mended(judged: _Judged, mend: Array, *, fewer: Array | int = 0) -> float:
    """Return AP in points once the errors `mend` (D,) are mended, and with fewer objects of each class."""
    # TIDE lists the errors before what was right from the start, which decides between equal scores.
    order = np.argsort(judged.right, kind="stable")
    kept = np.where(mend, judged.mended >= 0, ~judged.ignored)
    category, right = np.where(mend, judged.mended, judged.category), judged.right | mend
    return _points(category[order], judged.score[order], right[order], judged.objects - fewer, kept[order])


def _points(category: Array, score: Array, right: Array, objects: Array, kept: Array) -> float:
    """Return the mean AP, 0 to 100, of the classes that have objects, or detections that are kept."""
    category, score, right = category[kept], score[kept], right[kept]
    order = np.lexsort((-score, category))
    category, right = category[order], right[order]
    counted = (objects > 0) | (np.bincount(category, minlength=len(objects)) > 0)
    found, category = _place(category)[right], category[right]
    values = average_precision(_place(category), found, category, objects, RECALLS)
    return 100 * float(values[counted].mean()) if counted.any() else 0.0


def _place(group: Array) -> Array:
    """Return the place, from 1, of each among those of its group, where groups ascend."""
    places: Array = np.arange(1, len(group) + 1) - np.searchsorted(group, group)
    return places
