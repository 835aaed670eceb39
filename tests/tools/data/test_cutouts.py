"""Masks cut out to their objects, against the same done to dense masks."""

import numpy as np
import pytest
import torch

from vertebra.tools.data.cutouts import Cutouts


def cut(masks: np.ndarray) -> Cutouts:
    """Cut dense masks out to windows that are larger than need be, by up to three pixels on each side."""
    rng = np.random.default_rng(0)
    height, width = masks.shape[1:]
    corners, parts = [], []
    for mask in masks:
        rows, columns = np.nonzero(mask)
        if not len(rows):
            rows = columns = np.array([2])
        top, left = (max(0, int(each.min() - rng.integers(4))) for each in (rows, columns))
        bottom, right = rows.max() + 1 + rng.integers(4), columns.max() + 1 + rng.integers(4)
        corners.append((top, left))
        parts.append(mask[top:bottom, left:right])
    return Cutouts((height, width), tuple(corners), tuple(parts))


@pytest.fixture
def masks() -> np.ndarray:
    """Six rectangles of noise in an image of 20x30, and an empty mask."""
    rng = np.random.default_rng(1)
    found = np.zeros((7, 20, 30), np.uint8)
    for mask in found[:-1]:
        top, left = rng.integers(0, 14), rng.integers(0, 24)
        mask[top : top + 6, left : left + 9] = rng.integers(0, 2, mask[top : top + 6, left : left + 9].shape)
    found[0] = 0
    found[0, 5:8, 7:9] = 1
    return found


def test_there_and_back(masks: np.ndarray) -> None:
    assert np.array_equal(cut(masks).dense(), masks)
    found = cut(masks).tensors()
    assert np.array_equal(found.dense().numpy(), masks)
    assert found.pixels.dtype == torch.uint8


def test_a_selection(masks: np.ndarray) -> None:
    for rows in (np.array([4, 0]), np.zeros(7, bool), np.arange(7) % 2 == 0):
        assert np.array_equal(cut(masks)[rows].dense(), masks[rows])
    assert np.array_equal((cut(masks[:2]) + cut(masks[2:])).dense(), masks)


@pytest.mark.parametrize("axis", [0, 1])
def test_flips(masks: np.ndarray, axis: int) -> None:
    flipped = cut(masks).flipped(axis)
    assert np.array_equal(flipped.dense(), np.flip(masks, axis + 1))
    assert np.array_equal(flipped.tensors().dense().numpy(), np.flip(masks, axis + 1))


@pytest.mark.parametrize(
    ("rows", "columns"),
    [
        (np.arange(20), np.arange(30)),
        (np.arange(40) // 2, np.arange(90) // 3),
        (np.arange(3, 17, 3), np.arange(1, 30, 5)),
        (np.arange(18, 20), np.arange(2)),
        (np.arange(0), np.arange(5)),
    ],
)
def test_rows_and_columns(masks: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> None:
    expected = np.zeros((7, 50, 100), np.uint8)
    expected[:, 4 : 4 + len(rows), 6 : 6 + len(columns)] = masks[:, rows][:, :, columns]
    assert np.array_equal(cut(masks).sampled(rows, columns, (4, 6), (50, 100)).dense(), expected)


def test_what_covers_and_what_is_left(masks: np.ndarray) -> None:
    above, below = masks[:3], masks[3:]
    cover = cut(above).cover()
    assert np.array_equal(cover, above.max(axis=0))
    left = cut(below).without(cover)
    assert np.array_equal(left.dense(), below & ~cover & 1)
    assert left.areas().tolist() == (below & ~cover & 1).sum(axis=(1, 2)).tolist()


def test_boxes_hold_the_pixels(masks: np.ndarray) -> None:
    boxes = cut(masks[:-1]).boxes()
    assert boxes[0].tolist() == [7, 5, 9, 8]
    assert boxes.dtype == np.float32
    for mask, box in zip(masks[:-1], boxes, strict=True):
        rows, columns = np.nonzero(mask)
        assert box.tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def test_no_objects(masks: np.ndarray) -> None:
    none = cut(masks)[np.zeros(7, bool)]
    assert none.dense().shape == none.tensors().dense().shape == (0, 20, 30)
    assert none.flipped(0).sampled(np.arange(4), np.arange(5), (0, 0), (4, 5)).size == (4, 5)
    assert none.cover().sum() == none.areas().sum() == 0
    assert none.boxes().shape == (0, 4)
