"""Boundary IoU: squares by hand, and the definition class by class."""

import cv2
import numpy as np
import pytest
import torch

from vertebra.backbones import InputError
from vertebra.tools.evaluation.boundary import boundary_counts, boundary_region, boundary_width
from vertebra.tools.evaluation.semantic import SemanticEvaluator


def square(size: int, top: int, left: int, side: int) -> np.ndarray:
    labels = np.zeros((size, size), np.uint8)
    labels[top : top + side, left : left + side] = 1
    return labels


def test_width_is_a_share_of_the_diagonal() -> None:
    assert boundary_width((360, 480), 0.02) == 12
    assert boundary_width((30, 40), 0.02) == 1
    assert boundary_width((3, 4), 0.02) == 1


def test_a_square_by_hand() -> None:
    """Of width 1: the ring inside the square, the ring around it, and the edge of the image."""
    labels = square(10, 2, 2, 6)
    region = boundary_region(labels, np.ones((10, 10), bool), 1)
    assert region[labels == 1].sum() == 6 * 6 - 4 * 4
    assert region[labels == 0].sum() == 100 - 36  # the background is two pixels wide: one to each side
    wide = boundary_region(square(20, 6, 6, 8), np.ones((20, 20), bool), 2)
    assert wide[6:14, 6:14].sum() == 8 * 8 - 4 * 4
    assert wide.sum() == 48 + (20 * 20 - 16 * 16) + (12 * 12 - 8 * 8)


def test_a_moved_square_by_hand() -> None:
    truth, found = square(12, 3, 3, 6), square(12, 3, 4, 6)
    shared, union = boundary_counts(truth, found, np.ones((12, 12), bool), classes=2, ratio=0.02)
    # Two rings of 20, one column apart: they meet in the top and bottom rows, 5 pixels each.
    assert (shared[1], union[1]) == (10, 2 * 20 - 10)
    # Background: the edge of the image, 44 pixels, and rings of 28 around the squares, that meet in the top and bottom
    # rows, 7 pixels each.
    assert (shared[0], union[0]) == (44 + 14, 44 + 2 * 28 - 14)
    evaluator = SemanticEvaluator(["background", "square"])
    evaluator.update([truth, truth], [found, truth])
    assert evaluator.compute()[0]["semantic"]["boundary_IoU"] == pytest.approx(
        ((58 + 72) / (86 + 72) + (10 + 20) / (30 + 20)) / 2  # sums over both images
    )


def test_ignored_pixels_make_no_boundary() -> None:
    """A square whose right half is ignored has its boundary at the three sides that are known, in both maps."""
    labels = square(12, 3, 3, 6)
    labels[:, 6:] = 255
    counted = labels != 255
    region = boundary_region(labels, counted, 1)
    assert not region[:, 6:].any()
    assert region[labels == 1].sum() == 6 + 2 * 2
    shared, union = boundary_counts(labels, square(12, 3, 3, 6), counted, classes=2, ratio=0.02)
    assert shared.tolist() == union.tolist()


@pytest.mark.parametrize("classes", [4, 300])
def test_equals_erosion_of_each_class(classes: int) -> None:
    """The paper's definition: a mask in a border of zeros, less the mask eroded by 3x3 as often as the width."""
    rng = np.random.default_rng(0)
    for width in (1, 2, 5):
        coarse = rng.integers(0, 4, (2, 5, 7))
        truth, found = (cv2.resize(m.astype(np.uint8), (70, 50), interpolation=cv2.INTER_NEAREST) for m in coarse)
        truth, found = ((m.astype(np.int64) + classes - 4) for m in (truth, found))
        found[20:25] = truth[20:25]
        counted = rng.random((50, 70)) > 0.02
        shared, union = boundary_counts(truth, found, counted, classes=classes, ratio=width / np.hypot(50, 70))
        for label in range(classes - 4, classes):
            regions = []
            for labels in (truth, found):
                mask = ((labels == label) | ~counted).astype(np.uint8)
                padded = cv2.copyMakeBorder(mask, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
                inner = cv2.erode(padded, np.ones((3, 3), np.uint8), iterations=width)[1:-1, 1:-1]
                regions.append((mask - inner).astype(bool) & counted)
            assert shared[label] == (regions[0] & regions[1]).sum() > 0
            assert union[label] == (regions[0] | regions[1]).sum() > shared[label]


def test_width_can_be_chosen() -> None:
    truth, found = square(40, 10, 10, 20), square(40, 10, 11, 20)
    scores = []
    for ratio in (0.02, 0.1, 0.4):
        evaluator = SemanticEvaluator(["background", "square"], boundary=ratio)
        evaluator.update(torch.from_numpy(truth)[None], torch.from_numpy(found)[None])
        metrics, _ = evaluator.compute()
        scores.append(metrics["semantic"]["boundary_IoU"])
    assert scores == sorted(scores)
    assert scores[2] == pytest.approx(metrics["semantic"]["mIoU"])  # so wide that it is all of the image
    with pytest.raises(InputError, match="between 0 and 1"):
        SemanticEvaluator(["a"], boundary=0)
