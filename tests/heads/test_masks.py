"""Masks of the whole image, dense and as run lengths: equal to torchvision's pasting and pycocotools' encoding."""

from typing import Any

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask
from torch import Tensor
from torchvision.models.detection.roi_heads import paste_masks_in_image

import vertebra
from vertebra.heads.masks import paste, to_rle

SIZE = (60, 83)


def smooth(count: int, side: int = 28, *, seed: int = 0) -> Tensor:
    """Blobs, as a trained head gives them."""
    coarse = torch.randn(count, 1, 5, 5, generator=torch.Generator().manual_seed(seed)) + 0.5
    return torch.nn.functional.interpolate(4 * coarse, size=(side, side), mode="bicubic")[:, 0].sigmoid()


def noise(count: int, side: int = 28, *, seed: int = 0) -> Tensor:
    return torch.rand(count, side, side, generator=torch.Generator().manual_seed(seed))


def saturated(count: int, side: int = 28, *, seed: int = 0) -> Tensor:
    """Only 0 and 1, so that many pixels lie exactly at 0.5."""
    return (smooth(count, side, seed=seed) > 0.5).float()


def coarse_levels(count: int, side: int = 28, *, seed: int = 0) -> Tensor:
    """Tenths, so that the mask's own values are often exactly a threshold of 0.3."""
    return (10 * noise(count, side, seed=seed)).round() / 10


def boxes_in(size: tuple[int, int], count: int, *, outside: float = 0.0, seed: int = 0) -> Tensor:
    """Boxes of all sizes; with `outside` they pass the image's border by up to that share of it, on all sides."""
    points = torch.rand(count, 2, 2, generator=torch.Generator().manual_seed(seed)) * (1 + 2 * outside) - outside
    points = points * torch.tensor([size[1], size[0]])
    return torch.cat((points.amin(dim=1), points.amax(dim=1)), dim=1)


def assert_equal_to_dense(
    found: list[dict[str, Any]], dense: Tensor, size: tuple[int, int], threshold: float = 0.5
) -> None:
    """Compare run lengths with dense probabilities (D, 1, H, W): pixels that rounding cannot turn, and the bytes."""
    assert len(found) == len(dense)
    assert all(rle["size"] == list(size) for rle in found)
    pixels = coco_mask.decode(found)  # (H, W, D)
    probabilities = dense[:, 0].permute(1, 2, 0).numpy()
    certain = np.abs(probabilities - threshold) > 1e-5
    np.testing.assert_array_equal(pixels[certain], (probabilities > threshold)[certain])
    encoded = coco_mask.encode(np.asfortranarray(pixels))
    assert found == encoded
    np.testing.assert_array_equal(coco_mask.area(found), pixels.sum(axis=(0, 1)))
    np.testing.assert_array_equal(coco_mask.toBbox(found), coco_mask.toBbox(encoded))


@pytest.mark.parametrize("values", [smooth, noise, saturated, coarse_levels])
@pytest.mark.parametrize("side", [1, 14, 28])
@pytest.mark.parametrize(
    ("size", "outside"), [(SIZE, 0.0), (SIZE, 0.4), ((7, 300), 0.2), ((300, 1), 0.0), ((1, 1), 0.0)]
)
def test_equal_to_torchvision(values: Any, side: int, size: tuple[int, int], outside: float) -> None:
    masks, boxes = values(20, side), boxes_in(size, 20, outside=outside)
    boxes = boxes[(boxes[:, 2:] > 0).all(dim=1) & (boxes[:, 0] < size[1]) & (boxes[:, 1] < size[0])]
    masks = masks[: len(boxes)]
    expected = paste_masks_in_image(masks[:, None], boxes, size, padding=1)
    found = paste(masks, boxes, size)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    for threshold in (0.0, 0.3, 0.5):
        assert_equal_to_dense(to_rle(masks, boxes, size, threshold), expected, size, threshold)


def test_equal_to_torchvision_to_the_byte() -> None:
    """At a usual size, where no pixel of these lies at the threshold."""
    size = (240, 320)
    masks, boxes = smooth(8, seed=17), boxes_in(size, 8, seed=17)
    dense = paste_masks_in_image(masks[:, None], boxes, size, padding=1)
    assert float((dense - 0.5).abs().min()) > 1e-5
    expected = [coco_mask.encode(np.asfortranarray(each[0].numpy() > 0.5, dtype=np.uint8)) for each in dense]
    assert to_rle(masks, boxes, size) == expected


def test_boxes_smaller_than_a_pixel() -> None:
    boxes = torch.tensor([[4.2, 3.1, 4.3, 3.2], [5.0, 5, 5, 5], [0, 0, 0.01, 9.7], [82.99, 0, 83, 60]])
    masks = smooth(4)
    expected = paste_masks_in_image(masks[:, None], boxes, SIZE, padding=1)
    torch.testing.assert_close(paste(masks, boxes, SIZE), expected, rtol=0, atol=1e-5)
    assert_equal_to_dense(to_rle(masks, boxes, SIZE), expected, SIZE)


def test_boxes_outside_of_the_image_leave_nothing() -> None:
    """Torchvision's pasting fails on these."""
    boxes = torch.tensor([[-40.0, 5, -20, 20], [90, 5, 120, 20], [5, -40, 20, -20], [5, 70, 20, 90], [-9, -9, -5, -5]])
    masks = torch.ones(len(boxes), 28, 28)
    assert not paste(masks, boxes, SIZE).any()
    assert [coco_mask.area(rle) for rle in to_rle(masks, boxes, SIZE)] == [0] * len(boxes)


def test_nothing_and_everything() -> None:
    """Empty, and full far beyond the image: the columns' runs join to a single one."""
    boxes = torch.tensor([[0.0, 0, 83, 60], [-500, -400, 600, 500]])
    masks = torch.stack((torch.zeros(28, 28), torch.ones(28, 28)))
    empty, full = to_rle(masks, boxes, SIZE)
    assert empty == coco_mask.encode(np.zeros(SIZE, np.uint8, order="F"))
    assert full == coco_mask.encode(np.ones(SIZE, np.uint8, order="F"))


def test_a_column_to_the_border_joins_the_next() -> None:
    """By hand: the box grows to 1.43 and 3.57, so that columns 1 to 3 are full: a run of 9 pixels after the first 3."""
    rle = to_rle(torch.ones(1, 28, 28), torch.tensor([[1.5, -500.0, 3.5, 500.0]]), (3, 6))[0]
    assert rle["counts"] == coco_mask.frPyObjects({"size": [3, 6], "counts": [3, 9, 6]}, 3, 6)["counts"]


def test_no_objects() -> None:
    masks, boxes = torch.zeros(0, 28, 28), torch.zeros(0, 4)
    assert paste(masks, boxes, SIZE).shape == (0, 1, *SIZE)
    assert to_rle(masks, boxes, SIZE) == []


def test_a_very_large_box_needs_no_more_than_the_image() -> None:
    """Torchvision makes the box whole first: 40 GB here."""
    rle = to_rle(smooth(1), torch.tensor([[-50_000.0, -50_000, 50_000, 50_000]]), SIZE)[0]
    assert rle["size"] == list(SIZE)


def test_half_precision_is_pasted_in_full() -> None:
    masks, boxes = smooth(3), boxes_in(SIZE, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = paste(masks, boxes, SIZE)
    assert torch.equal(found, paste(masks, boxes, SIZE))
    assert paste(masks.bfloat16(), boxes, SIZE).dtype == torch.float32
    assert to_rle(masks.bfloat16(), boxes, SIZE) == to_rle(masks.bfloat16().float(), boxes, SIZE)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"masks": torch.zeros(2, 1, 28, 28)}, r"masks have shape \(2, 1, 28, 28\)"),
        ({"boxes": torch.zeros(3, 4)}, r"boxes \(3, 4\); \(D, M, M\) and \(D, 4\) are expected"),
        ({"boxes": torch.tensor([[0.0, 0, 9, 9], [0, 0, torch.nan, 9]])}, "boxes must be finite"),
        ({"boxes": torch.tensor([[0.0, 0, 9, 9], [5, 0, 4, 9]])}, "x1 <= x2"),
        ({"masks": torch.full((2, 28, 28), torch.nan)}, "masks must be finite"),
        ({"threshold": -0.1}, "threshold=-0.1; it is at least 0"),
    ],
)
def test_bad_input_is_named(change: dict[str, Any], message: str) -> None:
    given = {"masks": torch.zeros(2, 28, 28), "boxes": torch.zeros(2, 4), "size": SIZE, "threshold": 0.5, **change}
    with pytest.raises(vertebra.InputError, match=message):
        to_rle(**given)
