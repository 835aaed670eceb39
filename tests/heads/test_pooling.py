"""RoIAlign over a pyramid is torchvision's, forward and backward."""

import pytest
import torch
from torch import Tensor
from torchvision.ops import MultiScaleRoIAlign

from vertebra.heads.pooling import Cells, RoIAlign

SIZE = (96, 128)

# Inside, over the border on each side, wholly outside, tiny, without area, the whole image, exactly the canonical size.
BOXES = torch.tensor(
    [
        [[10, 10, 40, 50], [-20, -9, 30, 20], [100, 70, 150, 120], [130, 100, 140, 110]],
        [[5, 5, 5.2, 5.1], [7, 7, 7, 7], [0, 0, 128, 96], [8, 8, 40, 40]],
    ],
    dtype=torch.float64,
)


def maps(strides: tuple[int, ...], images: int = 2) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(images, 5, SIZE[0] // s, SIZE[1] // s, generator=generator, dtype=torch.float64, requires_grad=True)
        for s in strides
    ]


@pytest.mark.parametrize(("strides", "canonical"), [((4, 8, 16, 32), 64), ((1, 2, 4), 64), ((16,), 224)])
@pytest.mark.parametrize("size", [7, 14])
def test_equal_to_torchvision(strides: tuple[int, ...], canonical: int, size: int) -> None:
    names = [str(i) for i in range(len(strides))]
    theirs = MultiScaleRoIAlign(names, size, 2, canonical_scale=canonical)
    levels, ours = maps(strides), maps(strides)
    expected = theirs(dict(zip(names, levels, strict=True)), list(BOXES), [SIZE, SIZE])
    found = RoIAlign(strides, size, canonical)(Cells.of(ours), BOXES)
    torch.testing.assert_close(found, expected)
    assert found.shape == (8, 5, size, size)
    weight = torch.randn_like(expected)
    (expected * weight).sum().backward()
    (found * weight).sum().backward()
    for one, other in zip(ours, levels, strict=True):
        assert other.grad is not None
        torch.testing.assert_close(one.grad, other.grad)


def test_levels_with_a_gap() -> None:
    """A box that would be of stride 8 is pooled from stride 4, the next finer one that there is."""
    levels = maps((4, 16))
    box = torch.tensor([[[10.0, 10, 50, 50]]], dtype=torch.float64).expand(2, 1, 4)  # of stride 8
    found = RoIAlign((4, 16), 7, 64)(Cells.of(levels), box)
    torch.testing.assert_close(found, RoIAlign((4,), 7, 64)(Cells.of(levels[:1]), box))


def test_no_boxes() -> None:
    assert RoIAlign((4, 8), 7)(Cells.of(maps((4, 8))), torch.zeros(2, 0, 4, dtype=torch.float64)).shape == (0, 5, 7, 7)


def test_bfloat16() -> None:
    levels = [x.detach().bfloat16() for x in maps((4, 8, 16, 32))]
    exact = RoIAlign((4, 8, 16, 32), 7, 64)(Cells.of([x.double() for x in levels]), BOXES)
    found = RoIAlign((4, 8, 16, 32), 7, 64)(Cells.of(levels), BOXES.float())
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.double(), exact, rtol=0.02, atol=0.02)
