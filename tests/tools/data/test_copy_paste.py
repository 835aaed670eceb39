"""Objects of one sample upon another, by hand."""

from typing import Any

import numpy as np
import pytest

from vertebra.tools.data.copy_paste import paste
from vertebra.tools.data.cutouts import Cutouts


def sample(colour: int, first_label: int, *rectangles: tuple[int, int, int, int]) -> tuple[np.ndarray, dict[str, Any]]:
    """An image of one colour, 10x12, with solid rectangles (x1, y1, x2, y2) as its objects."""
    masks = Cutouts(
        (10, 12),
        tuple((y1, x1) for x1, y1, _, _ in rectangles),
        tuple(np.ones((y2 - y1, x2 - x1), np.uint8) for x1, y1, x2, y2 in rectangles),
    )
    boxes = np.array(rectangles, np.float32).reshape(-1, 4)
    labels = np.arange(len(rectangles)) + first_label
    return np.full((10, 12, 3), colour, np.uint8), {"boxes": boxes, "labels": labels, "masks": masks}


BELOW = ((0, 0, 4, 4), (6, 0, 10, 10), (1, 6, 3, 8))


def test_everything_is_pasted() -> None:
    """The first object keeps half, the second a tenth (of 40 pixels, 4), the third is not touched."""
    first, second = sample(10, 1, *BELOW), sample(99, 7, (2, 0, 5, 4), (5, 0, 12, 9))
    first[1]["boxes"][2] += 0.25
    pixels, objects, lost = paste(first, second, 1.0, 0.1, np.random.default_rng(0))
    assert lost == 0
    assert objects["labels"].tolist() == [1, 2, 3, 7, 8]
    assert objects["boxes"].tolist() == [
        [0, 0, 2, 4],
        [6, 9, 10, 10],
        [1.25, 6.25, 3.25, 8.25],
        [2, 0, 5, 4],
        [5, 0, 12, 9],
    ]
    expected = np.full((10, 12), 10)
    expected[:4, 2:5] = expected[:9, 5:] = 99
    assert np.array_equal(pixels, np.repeat(expected[..., None], 3, axis=2))
    dense = objects["masks"].dense()
    assert (dense.sum(axis=0) <= 1).all()
    assert dense.sum(axis=(1, 2)).tolist() == [8, 4, 4, 12, 63]
    assert dense[0, :4, :2].all()
    assert (first[0] == 10).all()
    assert first[1]["boxes"].tolist()[0] == [0, 0, 4, 4]


@pytest.mark.parametrize(("least_visible", "labels"), [(0.0, [1, 2, 3]), (0.11, [1, 3]), (0.5, [1, 3]), (0.51, [3])])
def test_what_is_mostly_covered_goes(least_visible: float, labels: list[int]) -> None:
    first, second = sample(10, 1, *BELOW), sample(99, 7, (2, 0, 5, 4), (5, 0, 12, 9))
    _, objects, lost = paste(first, second, 1.0, least_visible, np.random.default_rng(0))
    assert objects["labels"].tolist() == [*labels, 7, 8]
    assert lost == 3 - len(labels)


def test_what_is_covered_altogether_goes() -> None:
    _, objects, lost = paste(sample(1, 1, *BELOW), sample(9, 7, (0, 0, 12, 10)), 1.0, 0.0, np.random.default_rng(0))
    assert objects["labels"].tolist() == [7]
    assert lost == 3


def test_each_object_is_drawn_by_itself() -> None:
    pasted = []
    for seed in range(400):
        rng = np.random.default_rng(seed)
        _, objects, _ = paste(sample(1, 1, *BELOW), sample(9, 7, (11, 0, 12, 1), (11, 5, 12, 6)), 0.25, 0.1, rng)
        pasted.append(tuple(objects["labels"].tolist()[3:]))
    assert set(pasted) == {(), (7,), (8,), (7, 8)}
    assert 10 < pasted.count((7, 8)) < 45  # a sixteenth is 25
    assert 75 < sum(7 in drawn for drawn in pasted) < 125


@pytest.mark.parametrize("second", [(), ((3, 3, 3, 5),)])
def test_nothing_to_paste(second: tuple[tuple[int, int, int, int], ...]) -> None:
    """No objects, or one without a pixel."""
    pixels, objects, lost = paste(sample(10, 1, *BELOW), sample(99, 7, *second), 1.0, 0.1, np.random.default_rng(0))
    assert (pixels == 10).all()
    assert objects["labels"].tolist() == [1, 2, 3]
    assert objects["boxes"].tolist() == [list(map(float, box)) for box in BELOW]
    assert lost == 0


def test_onto_an_image_without_objects() -> None:
    pixels, objects, _ = paste(sample(10, 1), sample(99, 7, (0, 0, 2, 2)), 1.0, 0.1, np.random.default_rng(0))
    assert objects["labels"].tolist() == [7]
    assert (pixels == 99).sum() == 12
