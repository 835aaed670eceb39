"""Anchors are torchvision's, number for number."""

import pytest
import torch
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList

from vertebra.heads.anchors import Anchors


@pytest.mark.parametrize(
    ("image", "shapes"),
    [
        ((800, 1344), [(200, 336), (100, 168), (50, 84), (25, 42), (13, 21)]),  # 800 // 13 is 61, not the stride
        ((128, 160), [(32, 40), (16, 20), (8, 10), (4, 5), (2, 3)]),
    ],
)
def test_pyramid(image: tuple[int, int], shapes: list[tuple[int, int]]) -> None:
    sizes, ratios = ((32,), (64,), (128,), (256,), (512,)), (0.5, 1.0, 2.0)
    maps = [torch.zeros(1, 1, *shape) for shape in shapes]
    (expected,) = AnchorGenerator(sizes, (ratios,) * 5)(ImageList(torch.zeros(1, 3, *image), [image]), maps)
    anchors = Anchors((4, 8, 16, 32, 64), (8.0,), ratios)
    assert torch.equal(anchors(shapes, image), expected)
    assert not anchors.state_dict()


def test_one_level() -> None:
    maps, image = [torch.zeros(1, 1, 6, 8)], (96, 128)
    expected = AnchorGenerator(((32, 64, 128, 256, 512),), ((0.5, 1.0, 2.0),))(
        ImageList(torch.zeros(1, 3, *image), [image]), maps
    )[0]
    anchors = Anchors((16,), (2.0, 4.0, 8.0, 16.0, 32.0), (0.5, 1.0, 2.0))
    assert anchors.per_cell == 15
    assert torch.equal(anchors([(6, 8)], image), expected)
