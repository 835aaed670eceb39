"""Masks in windows, against the dense masks that they stand for."""

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.ops import roi_align

import vertebra
from vertebra.heads.boxed_masks import BoxedMasks, masks_of


def blobs(size: tuple[int, int], count: int, seed: int) -> Tensor:
    """Rectangles of noise, some of which touch one border of the image or several; the last is empty."""
    rng = np.random.default_rng(seed)
    masks = torch.zeros(count, *size, dtype=torch.uint8)
    for mask in masks[:-1]:
        (top, bottom), (left, right) = (
            sorted(rng.integers(-side // 2, side * 3 // 2, 2).clip(0, side)) for side in size
        )
        mask[top:bottom, left:right] = torch.from_numpy(rng.integers(0, 2, (bottom - top, right - left), np.uint8))
    return masks


def around(masks: Tensor, count: int, seed: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Boxes (count, 4) around objects and far from them, in the image and beyond it, and the object of each."""
    random = torch.Generator().manual_seed(seed)
    objects = torch.randint(len(masks), (count,), generator=random)
    windows = BoxedMasks.from_dense(masks).windows[objects].double()
    corner, side = windows[:, [1, 0]], windows[:, [3, 2]]
    shift = torch.randn(count, 2, generator=random, dtype=torch.double) * (0.3 * side + 5)
    sides = side * torch.rand(count, 2, generator=random, dtype=torch.double) * 2 + 0.5
    centres = corner + side / 2 + shift
    return torch.cat([centres - sides / 2, centres + sides / 2], dim=1).to(dtype), objects


def pooled(masks: Tensor, boxes: Tensor, objects: Tensor, size: int) -> Tensor:
    """As torchvision's Mask R-CNN crops its dense targets."""
    rois = torch.cat([objects[:, None].to(boxes), boxes], dim=1)
    return roi_align(masks[:, None].to(boxes), rois, (size, size), 1.0)[:, 0]


@pytest.mark.parametrize("size", [(70, 90), (200, 33), (5, 400), (1, 1)])
@pytest.mark.parametrize("seed", range(3))
def test_crops_equal_those_of_the_dense_masks(size: tuple[int, int], seed: int) -> None:
    masks = blobs(size, 12, seed)
    boxes, objects = around(masks, 300, seed, torch.float64)
    expected = pooled(masks, boxes, objects, 14)
    assert torch.equal(masks_of(masks).crop(boxes, objects, 14), expected)
    torch.testing.assert_close(BoxedMasks.from_dense(masks).crop(boxes, objects, 14), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "images"), [("nuclei/annotations/val.json", 6), ("coco_mini/annotations/instances_val2017.json", 14)]
)
def test_crops_of_real_objects_equal_those_of_the_dense_masks(real_data: Path, name: str, images: int) -> None:
    """In double precision to rounding. In single precision a coordinate of some hundred has steps of 1e-5 pixels."""
    from pycocotools.coco import COCO

    coco = COCO(str(real_data / name))
    differences = []
    for i in sorted(coco.getImgIds())[:images]:
        annotations = coco.loadAnns(coco.getAnnIds(i))
        if not annotations:
            continue
        masks = torch.stack([torch.from_numpy(coco.annToMask(a)) for a in annotations])
        boxed = BoxedMasks.from_dense(masks)
        boxes, objects = around(masks, 40, i, torch.float64)
        expected = pooled(masks, boxes, objects, 28)
        torch.testing.assert_close(boxed.crop(boxes, objects, 28), expected, rtol=0, atol=1e-10)
        assert expected.any()
        single = boxed.crop(boxes.float(), objects, 28)
        differences.append(float((single - pooled(masks, boxes.float(), objects, 28)).abs().max()))
    assert len(differences) >= 6
    assert max(differences) < 1e-3


@pytest.mark.parametrize("count", [1, 7])
def test_there_and_back(count: int) -> None:
    masks = blobs((50, 40), count, 1)
    boxed = BoxedMasks.from_dense(masks)
    assert torch.equal(boxed.dense(), masks)
    assert boxed.shape == masks.shape
    assert boxed.dtype == masks.dtype
    assert torch.equal(BoxedMasks.from_dense(masks.bool()).dense(), masks)
    assert torch.equal(pickle.loads(pickle.dumps(boxed)).dense(), masks)


def test_windows_are_the_smallest() -> None:
    masks = torch.zeros(3, 6, 8, dtype=torch.uint8)
    masks[0, 1, 2] = masks[0, 3, 6] = 1
    masks[2] = 1
    boxed = BoxedMasks.from_dense(masks)
    assert boxed.windows.tolist() == [[1, 2, 3, 5], [0, 0, 0, 0], [0, 0, 6, 8]]
    assert len(boxed.pixels) == 15 + 0 + 48


@pytest.mark.parametrize(
    "indices", [[2, 0], [], torch.tensor([3, 3]), slice(1, 4, 2), torch.tensor([True, False, False, True, True])]
)
def test_a_selection(indices: object) -> None:
    masks = blobs((30, 20), 5, 0)
    assert torch.equal(BoxedMasks.from_dense(masks)[indices].dense(), masks[indices])


def test_no_objects() -> None:
    none = BoxedMasks.from_dense(torch.zeros(0, 6, 8, dtype=torch.uint8))
    assert none.dense().shape == none.shape == (0, 6, 8)
    assert len(none[[]]) == 0
    # Boxes of an image without objects are all negatives, whatever object they are said to be for.
    assert none.crop(torch.ones(3, 4), torch.zeros(3, dtype=torch.int64), 14).shape == (3, 14, 14)


def test_resizing_is_that_of_dense_masks() -> None:
    masks = blobs((30, 20), 5, 0)
    boxes, objects = around(masks, 20, 0, torch.float64)
    boxed, dense = (masks_of(each).resized((45, 50)) for each in (BoxedMasks.from_dense(masks), masks))
    assert torch.equal(boxed.crop(boxes, objects, 14), dense.crop(boxes, objects, 14))
    same = BoxedMasks.from_dense(masks)
    assert same.resized((30, 20)) is same


def test_to_a_device() -> None:
    moved = BoxedMasks.from_dense(blobs((6, 8), 3, 0)).to(torch.device("meta"), non_blocking=True)
    assert moved.device.type == "meta"
    assert moved.windows.device.type == "cpu"


@pytest.mark.gpu
def test_a_loader_pins_it() -> None:
    masks = blobs((6, 8), 3, 0)
    loader = torch.utils.data.DataLoader([{"masks": BoxedMasks.from_dense(masks)}], collate_fn=list, pin_memory=True)
    ((target,),) = loader
    assert target["masks"].pixels.is_pinned()
    assert torch.equal(target["masks"].to("cuda").dense().cpu(), masks)


@pytest.mark.parametrize("train_size", [None, (100, 150)])
def test_a_model_learns_the_same_from_either(train_size: tuple[int, int] | None) -> None:
    """With one image that has no objects."""
    small = {"fpn_channels": 8, "box_head_channels": 8, "mask_convs": 1, "mask_channels": 8, "anchor_scales": (2.0,)}
    row = replace(vertebra.head_row("mask_rcnn"), train_size=train_size, **small)
    torch.manual_seed(0)
    model = vertebra.create_model(row, backbone="resnet18", num_classes=4)
    images = [torch.rand(3, 128, 160), torch.rand(3, 96, 90)]
    masks = [blobs((128, 160), 8, 0)[:-1], torch.zeros(0, 96, 90, dtype=torch.uint8)]
    masks[0] = masks[0][masks[0].flatten(1).bool().any(dim=1)]
    windows = BoxedMasks.from_dense(masks[0]).windows
    boxes = [torch.cat([windows[:, [1, 0]], windows[:, [1, 0]] + windows[:, [3, 2]]], dim=1).float(), torch.zeros(0, 4)]
    labels = [torch.arange(len(each)) % 3 + 1 for each in boxes]

    def losses(kinds: list[Tensor] | list[BoxedMasks]) -> dict[str, Tensor]:
        torch.manual_seed(1)
        parts = zip(boxes, labels, kinds, strict=True)
        return model(images, [{"boxes": b, "labels": label, "masks": m} for b, label, m in parts])

    one, other = losses(masks), losses([BoxedMasks.from_dense(each) for each in masks])
    assert one["loss_mask"] > 0
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(other[name], value, rtol=1e-5, atol=1e-6)
    with pytest.raises(vertebra.InputError, match=r"shape \(\d, 128, 160\); uint8 or bool \(0, 96, 90\) is"):
        losses([BoxedMasks.from_dense(masks[0]), BoxedMasks.from_dense(masks[0])])
