"""Masks as polygons: what they cover is the mask, by pycocotools."""

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from vertebra.tools.data.exchange.outlines import joined, one_polygon, outlines


def as_set(polygon: np.ndarray) -> set[tuple[float, float]]:
    return set(map(tuple, polygon.tolist()))


def drawn(polygon: np.ndarray, height: int, width: int) -> np.ndarray:
    return coco_mask.decode(coco_mask.frPyObjects([polygon.reshape(-1).tolist()], height, width))[..., 0]


def encode(mask: np.ndarray) -> dict:
    return coco_mask.encode(np.asfortranarray(mask, np.uint8))


def test_a_pixel_and_a_block() -> None:
    mask = np.zeros((5, 7), np.uint8)
    mask[2, 3] = 1
    (polygon,) = outlines(mask)
    assert as_set(polygon) == {(3, 2), (4, 2), (4, 3), (3, 3)}
    mask[1:4, 2:6] = 1
    (polygon,) = outlines(mask)
    assert len(polygon) == 4
    assert as_set(polygon) == {(2, 1), (6, 1), (6, 4), (2, 4)}


def test_a_hole_is_a_polygon_of_its_own() -> None:
    mask = np.zeros((6, 6), np.uint8)
    mask[1:5, 1:5] = 1
    mask[2:4, 2:4] = 0
    found = sorted(outlines(mask), key=lambda polygon: polygon.min())
    assert [as_set(polygon) for polygon in found] == [
        {(1, 1), (5, 1), (5, 5), (1, 5)},
        {(2, 2), (4, 2), (4, 4), (2, 4)},
    ]
    np.testing.assert_array_equal(drawn(joined(found), 6, 6), mask)


def test_parts_are_joined_at_their_nearest_points() -> None:
    """Two squares, the nearest corners (2, 2) and (4, 3): there and back by one bridge."""
    first = np.array([(0, 0), (2, 0), (2, 2), (0, 2)], float)
    second = np.array([(6, 3), (6, 5), (4, 5), (4, 3)], float)
    expected = [(0, 0), (2, 0), (2, 2), (4, 3), (6, 3), (6, 5), (4, 5), (4, 3), (2, 2), (0, 2)]
    assert joined([first, second]).tolist() == [list(map(float, point)) for point in expected]
    mask = np.zeros((6, 7), np.uint8)
    mask[:2, :2] = mask[3:5, 4:6] = 1
    np.testing.assert_array_equal(drawn(joined([first, second]), 6, 7), mask)


@pytest.mark.parametrize("seed", range(20))
def test_random_masks_come_back_exactly(seed: int) -> None:
    """Blobs with holes, and pixels that touch at their corners only."""
    rng = np.random.default_rng(seed)
    height, width = rng.integers(5, 40, 2)
    mask = (rng.random((height, width)) < rng.uniform(0.05, 0.95)).astype(np.uint8)
    if not mask.any():
        mask[0, 0] = 1
    polygon = one_polygon(encode(mask), height, width)
    np.testing.assert_array_equal(drawn(polygon, height, width), mask)


def test_polygons_and_empty_masks() -> None:
    triangle = np.array([1.5, 2, 8, 2.25, 8, 9])
    np.testing.assert_array_equal(one_polygon([triangle], 10, 10), triangle.reshape(3, 2))
    assert one_polygon(encode(np.zeros((4, 4))), 4, 4).shape == (0, 2)
