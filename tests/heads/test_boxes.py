"""Box arithmetic is torchvision's."""

import pytest
import torch
from torch import Tensor
from torchvision.models.detection._utils import BoxCoder
from torchvision.ops import batched_nms, box_iou, clip_boxes_to_image

from vertebra.heads.boxes import are_larger, clip, decode, encode, iou, suppress_at_once, survivors


def random_boxes(*shape: int, seed: int = 0) -> Tensor:
    draws = torch.rand(*shape, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.cat([draws[..., :2] * 80 - 5, draws[..., :2] * 80 + draws[..., 2:] * 60], dim=-1)


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0, 1.0), (10.0, 10.0, 5.0, 5.0)])
def test_encode_and_decode(weights: tuple[float, float, float, float]) -> None:
    boxes, truth = random_boxes(50), random_boxes(50, seed=1)
    coder = BoxCoder(weights)
    deltas = encode(truth, boxes, weights)
    torch.testing.assert_close(deltas, coder.encode_single(truth, boxes))
    torch.testing.assert_close(decode(deltas, boxes, weights), truth)
    wild = 30 * torch.randn(50, 4, dtype=torch.float64)  # beyond the largest growth
    torch.testing.assert_close(decode(wild, boxes, weights), coder.decode_single(wild, boxes))


def test_short_floats_are_widened() -> None:
    boxes = random_boxes(5).float() + 1000
    deltas = torch.full((5, 4), 1 / 512, dtype=torch.bfloat16)
    assert decode(deltas, boxes, (1.0, 1.0, 1.0, 1.0)).dtype == torch.float32


def test_iou_of_a_batch() -> None:
    first, second = random_boxes(2, 30), random_boxes(2, 40, seed=1)
    first[0, 0, 2:] = first[0, 0, :2]  # no area
    expected = torch.stack([box_iou(a, b) for a, b in zip(first, second, strict=True)])
    torch.testing.assert_close(iou(first, second), expected)
    assert torch.equal(iou(first[:1], first[:1])[0, 0, 0], torch.tensor(0.0, dtype=torch.float64))
    torch.testing.assert_close(iou(first, second[:1])[1], box_iou(first[1], second[0]))


def test_clip_and_size() -> None:
    boxes, sizes = random_boxes(2, 3, 7), torch.tensor([[40, 60], [70, 30]])
    expected = torch.stack([clip_boxes_to_image(x, tuple(size)) for x, size in zip(boxes, sizes.tolist(), strict=True)])
    assert torch.equal(clip(boxes, sizes), expected)
    assert are_larger(torch.tensor([[0.0, 0, 2, 1], [0, 0, 2, 2]]), 2).tolist() == [False, True]


def test_suppression_at_once_is_suppression_group_by_group() -> None:
    boxes, scores = random_boxes(400).float(), torch.rand(400)
    groups = torch.randint(0, 40, (400,))
    expected = batched_nms(boxes, scores, groups, 0.3)
    assert 100 < len(expected) < 400
    assert torch.equal(suppress_at_once(boxes, scores, groups, 0.3), expected)
    assert torch.equal(survivors(boxes, scores, groups, 0.3), expected)
