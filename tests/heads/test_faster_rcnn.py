"""Faster R-CNN: equal to torchvision's with the same weights, on any backbone, and strict about its input."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torchvision
from torch import nn
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

import vertebra
from vertebra.heads.faster_rcnn import Detector, FasterRCNN

_RANDOM = torch.Generator().manual_seed(0)
IMAGES = [torch.rand(3, height, width, generator=_RANDOM) for height, width in ((128, 160), (150, 120))]
TARGETS = [
    {"boxes": torch.tensor([[10.0, 20, 60, 90], [70, 5, 150, 120]]), "labels": torch.tensor([1, 2])},
    {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)},
]


def small_row(**changes: Any) -> FasterRCNN:
    small: dict[str, Any] = {
        "train_size": (128, 160),
        "test_size": (128, 160),
        "fpn_channels": 16,
        "box_head_channels": 32,
        "rpn_post_nms_top_n_train": 50,
        "rpn_post_nms_top_n_test": 20,
        "box_batch_size_per_image": 32,
    }
    return replace(vertebra.head_row("faster_rcnn"), **{**small, **changes})


def small_model(**changes: Any) -> Detector:
    torch.manual_seed(0)
    backbone = replace(vertebra.row("resnet18"), depths=(1, 1, 1, 1), widths=(8, 8, 8, 8))
    return vertebra.create_model(small_row(**changes), backbone=backbone, num_classes=3)


@pytest.fixture(scope="module")
def pair() -> tuple[nn.Module, Detector]:
    """Torchvision's detector and ours with the same weights; its scores raised so that there are detections."""
    torch.manual_seed(0)
    trunk = resnet_fpn_backbone(
        backbone_name="resnet50", weights=None, norm_layer=torchvision.ops.FrozenBatchNorm2d, trainable_layers=5
    )
    reference = torchvision.models.detection.FasterRCNN(trunk, 91, min_size=128, max_size=160)
    row = replace(vertebra.head_row("faster_rcnn"), train_size=(128, 160), test_size=(128, 160))
    model = vertebra.create_model(row, backbone="resnet50", norm="frozen_batch", num_classes=91)
    vertebra.load_weights(model, reference.state_dict())
    for detector in (reference, model):
        nn.init.normal_(
            detector.roi_heads.box_predictor.cls_score.weight, std=0.02, generator=torch.Generator().manual_seed(1)
        )
    return reference, model


def test_parameter_count(pair: tuple[nn.Module, Detector]) -> None:
    """The published count of torchvision's fasterrcnn_resnet50_fpn."""
    published = torchvision.models.detection.FasterRCNN_ResNet50_FPN_Weights.COCO_V1.meta["num_params"]
    assert sum(p.numel() for p in pair[1].parameters()) == published == 41_755_286


def test_detections_equal_torchvision(pair: tuple[nn.Module, Detector]) -> None:
    reference, model = pair
    with torch.no_grad():
        expected, found = reference.eval()(IMAGES), model.eval()(IMAGES)
    for theirs, ours in zip(expected, found, strict=True):
        assert len(theirs["boxes"]) > 5
        assert torch.equal(ours["labels"], theirs["labels"])
        torch.testing.assert_close(ours["boxes"], theirs["boxes"], rtol=1e-4, atol=1e-2)
        torch.testing.assert_close(ours["scores"], theirs["scores"], rtol=1e-4, atol=1e-5)


def test_losses_equal_torchvision(pair: tuple[nn.Module, Detector]) -> None:
    reference, model = pair
    torch.manual_seed(3)
    expected = reference.train()(IMAGES, [dict(target) for target in TARGETS])
    torch.manual_seed(3)
    for _ in IMAGES:
        torch.rand(1)  # torchvision has drawn a training size here, from the one that there is
    found = model.train()(IMAGES, TARGETS)
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert float(found[name].detach()) == pytest.approx(float(value.detach()), rel=1e-4)


def test_losses_in_eval_mode_leave_the_model_as_it_was() -> None:
    model = small_model().eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    losses = model.losses(IMAGES, TARGETS)
    assert set(losses) == {"loss_classifier", "loss_box_reg", "loss_objectness", "loss_rpn_box_reg"}
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not any(module.training for module in model.modules())
    assert isinstance(model(IMAGES), list)


def test_bytes_and_fractions_give_the_same() -> None:
    model = small_model(box_score_thresh=0.0).eval()
    images = [(image * 255).to(torch.uint8) for image in IMAGES]
    with torch.no_grad():
        expected, found = model([image / 255 for image in images]), model(images)
    for one, other in zip(expected, found, strict=True):
        assert torch.equal(one["boxes"], other["boxes"])


def test_boxes_are_in_pixels_of_the_given_image() -> None:
    """Twice the image is resized to the same input, so its boxes are twice as large."""
    model = small_model(box_score_thresh=0.0, test_size=(64, 64)).eval()
    image = nn.functional.interpolate(torch.rand(1, 3, 8, 8), size=(64, 64), mode="bilinear")[0]
    twice = image.repeat_interleave(2, 1).repeat_interleave(2, 2)
    with torch.no_grad():
        (found,), (double,) = model([image]), model([twice])
    assert len(found["boxes"])
    assert found["boxes"].max() <= 64 < double["boxes"].max() <= 128


def test_a_batch_without_objects_trains() -> None:
    model = small_model().train()
    losses = model(IMAGES, [TARGETS[1], TARGETS[1]])
    sum(losses.values()).backward()
    assert all(bool(torch.isfinite(value)) for value in losses.values())
    assert float(losses["loss_box_reg"].detach()) == 0


def test_it_learns_one_batch() -> None:
    """Loss falls to a fraction when the same two images come again and again."""
    model = small_model(rpn_batch_size_per_image=64).train()
    optimiser = torch.optim.Adam(model.parameters(), lr=2e-3)
    torch.manual_seed(0)
    history = []
    for _ in range(25):
        loss = sum(model(IMAGES, TARGETS).values())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        history.append(float(loss.detach()))
    assert sum(history[-3:]) < 0.5 * sum(history[:3])


def test_anchors_follow_the_strides() -> None:
    model = vertebra.create_model("faster_rcnn", backbone="resnet18", num_classes=2)
    assert model.rpn.anchor_generator.sizes == ((32,), (64,), (128,), (256,), (512,))  # arXiv:1612.03144, section 4.1
    model = vertebra.create_model("faster_rcnn", backbone="resnet18", num_classes=2, out_features=("c3", "c4"))
    assert model.rpn.anchor_generator.sizes == ((64,), (128,), (256,))


def test_options_of_the_backbone_are_handed_on() -> None:
    model = vertebra.create_model("faster_rcnn", backbone="resnet18", num_classes=2, frozen_stages=2, in_channels=1)
    assert model.backbone.body.conv1.in_channels == 1
    assert not model.backbone.body.layer1[0].conv1.weight.requires_grad


def with_target(**changes: torch.Tensor) -> list[dict[str, torch.Tensor]]:
    return [TARGETS[0], {**TARGETS[1], **changes}]


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (TARGETS[:1], "2 images came with 1 targets"),
        (with_target(boxes=torch.zeros(0)), r"targets\[1\]\['boxes'\] is torch.float32 of shape \(0,\)"),
        (with_target(labels=torch.ones(1, dtype=torch.int64)), r"targets\[1\]\['labels'\] .* int64 \(0,\) is expected"),
        (
            with_target(boxes=torch.tensor([[5.0, 5, 5, 9]]), labels=torch.tensor([1])),
            r"targets\[1\]\['boxes'\]\[0\] = \[5.0, 5.0, 5.0, 9.0\] has no area",
        ),
        (
            with_target(boxes=torch.tensor([[5.0, 5, 6, 9]]), labels=torch.tensor([3])),
            r"targets\[1\]\['labels'\] go from 3 to 3; 1 to 2 are allowed",
        ),
    ],
)
def test_bad_targets_are_named(targets: Any, message: str) -> None:
    with pytest.raises(vertebra.InputError, match=message):
        small_model().train()(IMAGES, targets)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: vertebra.create_model("faster_rcn", backbone="resnet18", num_classes=2), "Did you mean 'faster_rcnn'"),
        (lambda: vertebra.create_model("faster_rcnn", backbone="resnet18", num_classes=1), "counts the background"),
        (
            lambda: vertebra.create_model("faster_rcnn", backbone="resnet18", num_classes=2, output_stride=16),
            r"distinct strides, but the backbone has \[4, 8, 16, 16\].* DC5",
        ),
        (lambda: small_model().train()(IMAGES), "needs targets"),
    ],
)
def test_bad_calls_are_named(call: Callable[[], object], message: str) -> None:
    with pytest.raises(vertebra.InputError, match=message):
        call()


def test_list_heads() -> None:
    assert "faster_rcnn" in vertebra.list_heads()
