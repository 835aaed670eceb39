"""Pictures: boxes and masks where they belong, in colours that stay."""

from pathlib import Path

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask

from vertebra.tools.data.images import read_image
from vertebra.tools.draw import (
    colour,
    draw_boxes,
    draw_caption,
    draw_legend,
    draw_masks,
    draw_semantic,
    encode_picture,
    enlarge,
    write_picture,
)


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
    # The first 21, which are VOC's, to the eye as well.
    first = torch.tensor([colour(label) for label in range(21)]).float()
    assert torch.cdist(first, first).add(1000 * torch.eye(21)).min() > 45


def filled(drawn: torch.Tensor, box: list[int]) -> bool:
    """Tell whether a box has a text in its upper left corner, a little inside of its lines."""
    return bool(drawn[:, box[1] + 4 : box[1] + 16, box[0] + 4 : box[0] + 16].any())


def test_texts_that_would_hide_many_small_boxes_are_left_out() -> None:
    image = torch.zeros(3, 480, 640, dtype=torch.uint8)
    small = [[40 * i + 10, 300, 40 * i + 30, 320] for i in range(12)]
    large = [[10, 10, 200, 200], [300, 20, 500, 250], [302, 22, 420, 200]]
    only = [[600, 400, 620, 420]]
    boxes = small + large + only
    labels = [1] * 15 + [2]
    drawn = draw_boxes(image, torch.tensor(boxes).float(), labels, ["nucleus 0.98"] * 16)
    assert [filled(drawn, box) for box in small] == [False] * 12
    assert all(drawn[:, box[1], box[0]].any() for box in small)
    # The third of the large ones has its text where that of the second lies; label 2 has no other box.
    assert [filled(drawn, box) for box in [*large[:2], *only]] == [True] * 3
    others = [draw_boxes(image, torch.tensor(boxes).float(), labels, ["a"] * 14 + [text] + ["a"]) for text in "bc"]
    assert torch.equal(*others)
    few = draw_boxes(image, torch.tensor(small[::2]).float(), [1] * 6, ["nucleus 0.98"] * 6)
    assert all(filled(few, box) for box in small[::2])


def test_a_map_of_classes_with_outlines() -> None:
    """Three classes and an ignored corner, twice as large as the map."""
    image = torch.full((3, 400, 480), 100, dtype=torch.uint8)
    labels = torch.zeros(200, 240, dtype=torch.uint8)
    labels[:, 100:] = 3
    labels[150:, 200:] = 255
    drawn = draw_semantic(image, labels)
    assert (image == 100).all()
    for x, label in ((20, 0), (300, 3)):
        assert drawn[:, 100, x].tolist() == pytest.approx([(100 + part) / 2 for part in colour(label)], abs=0.5)
    assert tuple(drawn[:, 100, 199].tolist()) == colour(0)
    assert tuple(drawn[:, 100, 200].tolist()) == colour(3)
    assert tuple(drawn[:, 299, 440].tolist()) == colour(3)
    assert (drawn[:, 300:, 400:] == 100).all()
    assert (drawn[:, :300] != 100).any(dim=0).all()
    assert torch.equal(draw_semantic(image, torch.full((200, 240), 255)), image)
    signed = torch.where(labels == 255, -1, labels.long())
    assert torch.equal(draw_semantic(image, signed, ignore=-1), drawn)


def swatches(strip: torch.Tensor) -> set[tuple[int, ...]]:
    return {tuple(pixel) for pixel in strip.flatten(1).T.tolist()}


@pytest.mark.parametrize("width", [60, 480, 968])
def test_a_legend_has_the_colours_of_its_labels(width: int) -> None:
    names = ["sky", "a name which is much longer than such pictures are wide, and is cut", "клетка", "", "car"]
    strip = draw_legend(width, [0, 1, 4], names)
    assert (strip.dtype, strip.shape[0], strip.shape[2]) == (torch.uint8, 3, width)
    shown = swatches(strip)
    assert {colour(0), colour(1), colour(4)} <= shown
    assert not {colour(2), colour(3)} & shown
    assert draw_legend(width, [], names).shape[2] == width
    rows = [draw_legend(width, list(range(n)), ["car"] * 21).shape[1] for n in (1, 21)]
    assert rows[0] < rows[1]


def test_a_caption_fits() -> None:
    assert (draw_caption(100, "labels") < 128).any()
    long = draw_caption(100, "a caption that is longer than its picture")
    assert long.shape == draw_caption(100, "labels").shape
    assert (long[:, :, :2] == 255).all() or (long[:, :, -2:] == 255).all()


def test_small_images_are_enlarged(tmp_path: Path) -> None:
    image = torch.randint(0, 256, (3, 30, 60), dtype=torch.uint8)
    large, scale = enlarge(image, short=120)
    assert (large.shape, scale) == ((3, 120, 240), 4)
    assert enlarge(large, short=100)[1] == 1
    write_picture(tmp_path / "a.jpg", large)
    assert read_image(tmp_path / "a.jpg").shape == (120, 240, 3)


def test_a_jpeg_has_the_colours_of_its_picture(tmp_path: Path) -> None:
    """Red stays red, rows stay rows, a view of another order of memory is written too; a lower quality is smaller."""
    image = torch.zeros(3, 40, 64, dtype=torch.uint8)
    image[0, :20], image[2, 20:, 32:] = 250, 200
    for picture in (image, image.permute(1, 2, 0).contiguous().permute(2, 0, 1)):
        write_picture(tmp_path / "a.jpg", picture)
        read = torch.from_numpy(read_image(tmp_path / "a.jpg")).permute(2, 0, 1)
        assert (read.int() - image.int()).abs().float().mean() < 4
    assert (tmp_path / "a.jpg").read_bytes() == encode_picture(image)
    noise = torch.randint(0, 256, (3, 40, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert len(encode_picture(noise, 50)) < 0.6 * len(encode_picture(noise))
