"""Pictures: boxes and masks where they belong, in colours that stay."""

from pathlib import Path

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask

from vertebra.tools.data.images import read_image
from vertebra.tools.draw import colour, draw_boxes, draw_masks, enlarge, write_picture


def test_boxes_are_drawn_in_their_labels_colour() -> None:
    image = torch.zeros(3, 240, 240, dtype=torch.uint8)
    drawn = draw_boxes(image, torch.tensor([[50.0, 100, 150, 200]]), [3], ["cat 0.98"])
    assert not image.any()
    assert tuple(drawn[:, 200, 100].tolist()) == colour(3)
    assert tuple(drawn[:, 150, 50].tolist()) == colour(3)
    assert not drawn[:, 150, 100].any()


def test_odd_boxes_and_odd_names_draw() -> None:
    image = torch.zeros(3, 40, 40, dtype=torch.uint8)
    boxes = torch.tensor([[-5.0, -5, 50, 60], [10, 10, 10, 10], [39, 39, 40, 40]])
    assert draw_boxes(image, boxes, [1, 2, 3], ["", "Zelle Größe", "клетка"]).any()
    assert torch.equal(draw_boxes(image, torch.zeros(0, 4), [], []), image)


def rle(size: tuple[int, int], *windows: tuple[slice, slice]) -> dict[str, object]:
    mask = np.zeros(size, np.uint8, order="F")
    for window in windows:
        mask[window] = 1
    return coco_mask.encode(mask)


def test_masks_are_half_transparent_with_an_outline() -> None:
    image = torch.full((3, 240, 240), 100, dtype=torch.uint8)
    drawn = draw_masks(image, [rle((240, 240), np.s_[100:200, 50:150])], [3])
    assert (image == 100).all()
    assert drawn[:, 150, 100].tolist() == pytest.approx([(100 + part) / 2 for part in colour(3)], abs=0.5)
    for y, x in ((100, 50), (199, 149), (150, 50), (100, 77)):
        assert tuple(drawn[:, y, x].tolist()) == colour(3)
    changed = (drawn != image).any(dim=0)
    assert changed.sum() == 100 * 100
    assert changed[100:200, 50:150].all()


def test_masks_are_scaled_to_the_picture() -> None:
    image = torch.zeros(3, 120, 160, dtype=torch.uint8)
    drawn = draw_masks(image, [rle((30, 40), np.s_[5:15, 10:30])], [1])
    changed = drawn.any(dim=0)
    expected = torch.zeros(120, 160, dtype=torch.bool)
    expected[20:60, 40:120] = True
    assert (changed != expected).sum() < 10  # corners are rounded
    assert changed[21:59, 41:119].all()


def test_odd_masks_draw() -> None:
    """Without pixels, of one pixel, of the whole image, in parts at its edges; and a small one on a large one."""
    size = (40, 50)
    image = torch.zeros(3, *size, dtype=torch.uint8)
    assert torch.equal(draw_masks(image, [], []), image)
    assert torch.equal(draw_masks(image, [rle(size)], [1]), image)
    assert draw_masks(image, [rle(size, np.s_[39:, 49:])], [1]).any(dim=0).sum() == 1
    assert draw_masks(image, [rle(size, np.s_[:, :])], [1]).any(dim=0).all()
    assert draw_masks(image, [rle(size, np.s_[:3, :3], np.s_[30:, 45:])], [1]).any(dim=0).sum() == 9 + 50
    for order in ([0, 1], [1, 0]):
        masks, labels = [rle(size, np.s_[:, :]), rle(size, np.s_[10:20, 10:20])], [1, 2]
        drawn = draw_masks(image, [masks[i] for i in order], [labels[i] for i in order])
        assert tuple(drawn[:, 10, 10].tolist()) == colour(2)


def test_colours_are_distinct() -> None:
    assert len({colour(label) for label in range(1, 81)}) == 80


def test_small_images_are_enlarged(tmp_path: Path) -> None:
    image = torch.randint(0, 256, (3, 30, 60), dtype=torch.uint8)
    large, scale = enlarge(image, short=120)
    assert (large.shape, scale) == ((3, 120, 240), 4)
    assert enlarge(large, short=100)[1] == 1
    write_picture(tmp_path / "a.jpg", large)
    assert read_image(tmp_path / "a.jpg").shape == (120, 240, 3)
