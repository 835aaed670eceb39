"""The forms that exporters trace: equal to the models, for none, one and many results, alone and in batches."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import MultiScaleRoIAlign, batched_nms

import vertebra
from vertebra.heads.export import exportable
from vertebra.heads.export_pooling import pool_by_level
from vertebra.heads.export_suppression import as_one_operator, by_torchvision
from vertebra.heads.pooling import RoIAlign

_RANDOM = torch.Generator().manual_seed(0)
SIZES = ((96, 70), (50, 128), (96, 128))
IMAGES = [torch.rand(3, *size, generator=_RANDOM) for size in SIZES]
R_CNN = [name for name in vertebra.list_heads() if "rcnn" in name]


def small_model(head: str, **changes: Any) -> nn.Module:
    torch.manual_seed(0)
    small: dict[str, Any] = {"test_size": None}
    if "rcnn" in head:
        # Scores that differ widely, as trained ones do.
        small |= {"box_head_channels": 32, "rpn_pre_nms_top_n_test": 150, "rpn_post_nms_top_n_test": 40}
        small |= {} if head.endswith("dc5") else {"fpn_channels": 16}
    if head.startswith("mask"):
        small |= {"mask_convs": 1, "mask_channels": 8}
    if head.startswith("deeplab"):
        small["aspp_channels"] = 8
    backbone = replace(vertebra.row("resnet18"), depths=(1, 1, 1, 1), widths=(8, 8, 8, 8))
    model = vertebra.create_model(
        replace(vertebra.head_row(head), **{**small, **changes}), backbone=backbone, num_classes=5
    )
    if "rcnn" in head:
        for layer in (model.rpn.head.cls_logits, model.rpn.head.bbox_pred, model.roi_heads.box_predictor.cls_score):
            nn.init.normal_(layer.weight, std=0.2)
    return model.eval()


def padded(images: list[Tensor], beyond: float = 0.0) -> tuple[Tensor, Tensor]:
    """Images in the corners of a batch of 96x128, with some value beyond them."""
    batch = torch.full((len(images), 3, 96, 128), beyond)
    for place, image in zip(batch, images, strict=True):
        place[:, : image.shape[1], : image.shape[2]] = image
    return batch, torch.tensor([list(image.shape[1:]) for image in images])


def detected(model: nn.Module, images: Tensor, sizes: Tensor) -> list[dict[str, Tensor]]:
    """What the exportable form finds, without the slots that stay empty."""
    form = exportable(model, by_torchvision)
    with torch.inference_mode():
        outputs = dict(zip(form.outputs, form(images, sizes), strict=True))
    for name, value in outputs.items():
        assert not value[~outputs["valid"]].any(), name
    return [{name: value[i][valid] for name, value in outputs.items()} for i, valid in enumerate(outputs["valid"])]


def sorted_by_place(found: dict[str, Tensor]) -> dict[str, Tensor]:
    """Detections in an order that rounding does not change, as it does that of all but equal scores."""
    order = (found["labels"] * 1000 + found["boxes"].sum(dim=1)).argsort()
    return {name: value[order] for name, value in found.items() if name in ("boxes", "labels", "scores", "masks")}


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert (found["scores"].diff() <= 0).all()
    found, expected = sorted_by_place(found), sorted_by_place(expected)
    torch.testing.assert_close(found["scores"], expected["scores"], rtol=0, atol=1e-5)
    torch.testing.assert_close(found["boxes"], expected["boxes"], rtol=0, atol=1e-3)
    assert torch.equal(found["labels"], expected["labels"])


@pytest.mark.parametrize("head", R_CNN)
def test_detections_are_those_of_the_model(head: str) -> None:
    model: Any = small_model(head)
    with torch.inference_mode():
        # As masks of the image would need pasting, those in the boxes are taken from below the model.
        batch = model._batch(IMAGES)
        expected = super(type(model), model).detect(IMAGES) if head.startswith("mask") else model(IMAGES)
    assert batch.images.shape[-2:] == (96, 128)
    found = detected(model, *padded(IMAGES))
    assert all(len(one["scores"]) > 5 for one in expected)
    for one, other in zip(found, expected, strict=True):
        assert_same(one, other)
        if head.startswith("mask"):
            one, other = sorted_by_place(one), sorted_by_place(other)
            torch.testing.assert_close(one["masks"], other["masks"], rtol=0, atol=1e-4)


def test_what_lies_beyond_an_image_is_not_looked_at() -> None:
    model = small_model("faster_rcnn")
    for one, other in zip(
        detected(model, *padded(IMAGES, float("nan"))), detected(model, *padded(IMAGES)), strict=True
    ):
        assert_same(one, other)


@pytest.mark.parametrize(("changes", "count"), [({"box_score_thresh": 1.0}, 0), ({"box_detections_per_img": 1}, 1)])
def test_none_and_one(changes: dict[str, Any], count: int) -> None:
    model: Any = small_model("mask_rcnn", **changes)
    with torch.inference_mode():
        expected = model(IMAGES)
    for one, other in zip(detected(model, *padded(IMAGES)), expected, strict=True):
        assert len(one["scores"]) == len(other["scores"]) == count
        assert_same(one, other)


def test_more_results_than_there_are_boxes() -> None:
    model = small_model("faster_rcnn", box_detections_per_img=500, rpn_pre_nms_top_n_test=5000)
    form = exportable(model, by_torchvision)
    boxes, scores, labels, valid = form(*padded(IMAGES))
    assert boxes.shape == (3, 500, 4)
    assert scores.shape == labels.shape == valid.shape == (3, 500)
    assert 0 < int(valid.sum()) < 3 * 40 * 4
    for one, other in zip(detected(model, *padded(IMAGES)), model(IMAGES), strict=True):
        assert_same(one, other)


def test_labels_of_pixels_are_those_of_the_model() -> None:
    for head in ("deeplabv3", "deeplabv3plus"):
        model = small_model(head)
        images, sizes = padded(IMAGES, 0.5)
        with torch.inference_mode():
            semantic, logits = exportable(model, by_torchvision)(images, sizes)
            expected = model(IMAGES)
        assert semantic.dtype == torch.uint8
        assert logits.shape[1] == 5
        for found, one, (height, width) in zip(semantic, expected, SIZES, strict=True):
            assert (found[:height, :width] == one["semantic"]).float().mean() > 0.999
            assert (found[height:] == 255).all()
            assert (found[:, width:] == 255).all()


def test_scores_of_images_are_those_of_the_model() -> None:
    model = small_model("classifier")
    images = [torch.rand(3, 50, 70) for _ in range(2)]
    with torch.inference_mode():
        (scores,) = exportable(model, by_torchvision)(torch.stack(images))
        expected = torch.stack([one["scores"] for one in model(images)])
    torch.testing.assert_close(scores, expected)


@pytest.mark.parametrize("suppress", [by_torchvision, as_one_operator])
def test_groups_are_suppressed_as_torchvision_does(suppress: Any) -> None:
    """The last group is empty, and the boxes of the others are the same, which must not meet."""
    generator = torch.Generator().manual_seed(1)
    corners = torch.rand(50, 2, 2, generator=generator) * 100
    boxes = torch.cat([corners.amin(1), corners.amax(1) + 1], dim=1).expand(4, -1, -1).contiguous()
    scores = torch.rand(4, 50, generator=generator)
    scores[:, ::7] = -torch.inf
    scores[3] = -torch.inf
    survived = suppress(boxes, scores, 0.4)
    group = torch.arange(4).repeat_interleave(50)
    there = (scores > -torch.inf).flatten().nonzero().squeeze(1)
    kept = there[batched_nms(boxes.reshape(-1, 4)[there], scores.flatten()[there], group[there], 0.4)]
    assert sorted(kept.tolist()) == survived.flatten().nonzero().squeeze(1).tolist()
    assert 0 < len(kept) < len(there)
    assert not suppress(boxes, torch.full_like(scores, -torch.inf), 0.4).any()


@pytest.mark.parametrize("largest", [30.0, 500.0])
def test_pooling_is_torchvisions(largest: float) -> None:
    """With small boxes alone, levels are left without any."""
    generator = torch.Generator().manual_seed(2)
    levels = [torch.rand(2, 4, 128 // 2**i, 160 // 2**i, generator=generator) for i in range(4)]
    corners = torch.rand(2, 30, 2, generator=generator) * 400
    boxes = torch.cat([corners, corners + torch.rand(2, 30, 2, generator=generator) * largest + 1], dim=-1)
    reference = MultiScaleRoIAlign([str(i) for i in range(4)], 7, 2)
    expected = reference(dict(zip("0123", levels, strict=True)), list(boxes), [(512, 640)] * 2)
    found = pool_by_level(RoIAlign((4, 8, 16, 32), 7), levels, boxes)
    torch.testing.assert_close(found, expected)
