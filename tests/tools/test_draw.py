"""Pictures: boxes where they belong, in colours that stay."""

from pathlib import Path

import torch

from vertebra.tools.data.images import read_image
from vertebra.tools.draw import colour, draw_boxes, enlarge, write_picture


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


def test_colours_are_distinct() -> None:
    assert len({colour(label) for label in range(1, 81)}) == 80


def test_small_images_are_enlarged(tmp_path: Path) -> None:
    image = torch.randint(0, 256, (3, 30, 60), dtype=torch.uint8)
    large, scale = enlarge(image, short=120)
    assert (large.shape, scale) == ((3, 120, 240), 4)
    assert enlarge(large, short=100)[1] == 1
    write_picture(tmp_path / "a.jpg", large)
    assert read_image(tmp_path / "a.jpg").shape == (120, 240, 3)
