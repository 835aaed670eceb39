"""COCO's compressed run lengths (RLE), those of many objects at once: their numbers, and the masks that they mean."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .cutouts import Cutouts

Array = np.ndarray[Any, np.dtype[Any]]


def read_runs(counts: Sequence[str | bytes]) -> tuple[Array, Array]:
    """Return the lengths of the runs of each RLE, one RLE after the other, and how many runs each of them has.

    Each number has five bits a character, lowest first, with bit 5 where more follow; from the fourth number of an RLE
    on it is the difference to the last but one. What is no RLE is a ValueError.
    """
    texts = [each.encode() if isinstance(each, str) else each for each in counts]
    if not texts:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    codes = np.frombuffer(b"".join(texts), np.uint8).astype(np.int64) - 48
    ends = np.cumsum([len(text) for text in texts])
    last = (codes & 32) == 0
    if not all(texts) or codes.min() < 0 or codes.max() > 63 or not last[ends - 1].all():
        raise ValueError("its counts are no compressed RLE")
    starts = np.flatnonzero(np.concatenate([[True], last[:-1]]))
    place = np.arange(len(codes)) - np.repeat(starts, np.diff(starts, append=len(codes)))
    if place.max() > 8:  # a run of more than 2^40 pixels
        raise ValueError("its counts are no compressed RLE")
    runs = np.add.reduceat((codes & 31) << 5 * place, starts)
    runs -= np.where(codes[last] & 16, 1 << 5 * (place[last] + 1), 0)
    lengths = np.diff(np.searchsorted(starts, ends), prepend=0)
    number = _numbers(lengths)
    for chain in (number % 2 == 1, (number % 2 == 0) & (number > 0)):
        runs = np.where(chain, _sums(np.where(chain, runs, 0), lengths), runs)
    return runs, lengths


def cut_out(runs: Array, lengths: Array, size: tuple[int, int]) -> Cutouts:
    """Return the masks of RLEs in an image of (height, width) `size`, as `read_runs` gives them.

    Runs go down the columns and on from one to the next, the first of them outside.
    """
    height, count = size[0], len(lengths)
    index = np.flatnonzero((_numbers(lengths) % 2 == 1) & (runs > 0))  # of the runs that are inside
    owner = np.repeat(np.arange(count), lengths)[index]
    stops = _sums(runs, lengths)[index]
    starts = stops - runs[index]
    columns, rows = np.divmod(starts, height)
    last_columns, last_rows = np.divmod(stops - 1, height)
    goes_on = columns != last_columns  # from the foot of a column to the head of the next

    windows = np.zeros((count, 4), np.int64)
    top, left, tall, wide = windows.T
    filled, first = np.unique(owner, return_index=True)
    if len(filled):
        top[filled] = np.minimum.reduceat(np.where(goes_on, 0, rows), first)
        tall[filled] = np.maximum.reduceat(np.where(goes_on, height - 1, last_rows), first) + 1 - top[filled]
        left[filled] = columns[first]
        wide[filled] = np.maximum.reduceat(last_columns, first) + 1 - left[filled]
    areas = tall * wide
    bases = areas.cumsum() - areas
    inside = (bases - top)[owner] + (columns - left[owner]) * tall[owner] + rows
    changes = np.stack([inside, inside + runs[index]], axis=1).ravel()
    pixels = (np.arange(len(changes) + 1) % 2).astype(np.uint8).repeat(np.diff(changes, prepend=0, append=areas.sum()))
    parts = [pixels[base : base + w * t].reshape(w, t).T for base, t, w in zip(bases, tall, wide, strict=True)]
    return Cutouts(size, tuple((y, x) for y, x in windows[:, :2].tolist()), tuple(parts))


def _numbers(lengths: Array) -> Array:
    """Return 0, 1, 2, … for each of the lists that follow each other and have these lengths."""
    numbers: Array = np.arange(lengths.sum()) - np.repeat(lengths.cumsum() - lengths, lengths)
    return numbers


def _sums(values: Array, lengths: Array) -> Array:
    """Return the running sums of each of the lists."""
    sums = np.concatenate([[0], values.cumsum()])
    of_each: Array = sums[1:] - np.repeat(sums[lengths.cumsum() - lengths], lengths)
    return of_each
