"""The confusion matrix of objects, by hand."""

from typing import Any

import numpy as np
import pytest

from vertebra.tools.data.sets import Category
from vertebra.tools.evaluation.matching import match
from vertebra.tools.evaluation.object_confusion import object_confusion

CATEGORIES = (Category(3, "cat"), Category(5, "dog"))


def record(image: int, category: int, box: list[float], score: float | None = None, crowd: int = 0) -> dict[str, Any]:
    return {
        "image_id": image,
        "category_id": category,
        "bbox": box,
        "area": box[2] * box[3],
        "iscrowd": crowd,
        **({} if score is None else {"score": score}),
    }


A, B, FAR = [0, 0, 10, 10], [30, 0, 10, 10], [90, 90, 10, 10]

CASES = {
    "each found as what it is": ([(3, A), (5, B)], [(3, A, 0.9), (5, B, 0.9)], [[1, 0, 0], [0, 1, 0], [0, 0, 0]]),
    "a dog found as a cat": ([(5, A)], [(3, A, 0.9)], [[0, 0, 0], [1, 0, 0], [0, 0, 0]]),
    "missed, and found elsewhere": ([(5, A)], [(5, FAR, 0.9)], [[0, 0, 0], [0, 0, 1], [0, 1, 0]]),
    "an IoU of 0.5 is enough": ([(3, A)], [(3, [0, 0, 5, 10], 0.9)], [[1, 0, 0], [0, 0, 0], [0, 0, 0]]),
    "less is not": ([(3, A)], [(3, [0, 0, 4.9, 10], 0.9)], [[0, 0, 1], [0, 0, 0], [1, 0, 0]]),
    # The first by score takes it, of whatever class, and the second is on the background.
    "twice": ([(5, A)], [(5, A, 0.8), (3, A, 0.9)], [[0, 0, 0], [1, 0, 0], [0, 1, 0]]),
    "of equal overlaps its own class": ([(3, A), (5, A)], [(5, A, 0.9)], [[0, 0, 1], [0, 1, 0], [0, 0, 0]]),
    "below the threshold of its class": (
        [(3, A), (5, B)],
        [(3, A, 0.29), (5, B, 0.3)],
        [[0, 0, 1], [0, 1, 0], [0] * 3],
    ),
    "nothing": ([], [], [[0, 0, 0]] * 3),
}


@pytest.mark.parametrize("case", CASES)
def test_by_hand(case: str) -> None:
    objects, detections, expected = CASES[case]
    truth = [record(1, label, box) for label, box in objects]
    found = [record(1, label, box, score) for label, box, score in detections]
    confusion = object_confusion(match(truth, found, CATEGORIES, [1, 2], "bbox"), [0.3, 0.3])
    assert confusion.names == ("cat", "dog", "background")
    np.testing.assert_array_equal(confusion.counts, expected)


def test_crowds_swallow_their_own_class() -> None:
    crowd = record(1, 3, [0, 0, 100, 100], crowd=1)
    found = [record(1, 3, A, 0.9), record(1, 3, B, 0.9), record(1, 5, B, 0.9)]
    confusion = object_confusion(match([crowd], found, CATEGORIES, [1], "bbox"), [0.3, 0.3])
    np.testing.assert_array_equal(confusion.counts, [[0, 0, 0], [0, 0, 0], [0, 1, 0]])


def test_images_are_apart() -> None:
    """What is in one image is not found by the same box in another."""
    matches = match([record(1, 3, A)], [record(2, 3, A, 0.9)], CATEGORIES, [1, 2], "bbox")
    np.testing.assert_array_equal(object_confusion(matches, [0.3, 0.3]).counts, [[0, 0, 1], [0, 0, 0], [1, 0, 0]])
