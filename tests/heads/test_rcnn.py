"""Faster and Mask R-CNN: equal to torchvision's with the same weights, on any backbone, and strict about input."""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from pycocotools import mask as coco_mask
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torchvision.models import detection
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

import vertebra
from vertebra.heads import rpn
from vertebra.heads.detector import Detector
from vertebra.heads.rcnn import FasterRCNN
from vertebra.tools.data.shapes import SHAPES, Shapes, draw_image

Losses = dict[str, Tensor]

_RANDOM = torch.Generator().manual_seed(0)
IMAGES = [torch.rand(3, height, width, generator=_RANDOM) for height, width in ((128, 160), (150, 120))]


def target(boxes: list[list[float]], labels: list[int], height: int, width: int) -> dict[str, Tensor]:
    """A target whose masks are the left halves of its boxes."""
    masks = torch.zeros(len(boxes), height, width, dtype=torch.uint8)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes, strict=True):
        mask[int(y1) : int(y2), int(x1) : int(x1 + x2) // 2] = 1
    return {
        "boxes": torch.tensor(boxes).reshape(-1, 4),
        "labels": torch.tensor(labels, dtype=torch.int64),
        "masks": masks,
    }


EMPTY = target([], [], 150, 120)
TARGETS = [target([[10.0, 20, 60, 90], [70, 5, 150, 120]], [1, 2], 128, 160), EMPTY]


def small_row(head: str = "faster_rcnn", **changes: Any) -> FasterRCNN:
    small: dict[str, Any] = {
        "train_size": (128, 160),
        "test_size": (128, 160),
        "fpn_channels": 16,
        "box_head_channels": 32,
        "rpn_post_nms_top_n_train": 50,
        "rpn_post_nms_top_n_test": 20,
        "box_batch_size_per_image": 32,
    }
    if head.startswith("mask"):
        small |= {"mask_convs": 1, "mask_channels": 8}
    if head.endswith("dc5"):
        del small["fpn_channels"]
    return replace(vertebra.head_row(head), **{**small, **changes})


def small_model(head: str = "faster_rcnn", **changes: Any) -> Detector:
    torch.manual_seed(0)
    backbone = replace(vertebra.row("resnet18"), depths=(1, 1, 1, 1), widths=(8, 8, 8, 8))
    return vertebra.create_model(small_row(head, **changes), backbone=backbone, num_classes=3)


# --- torchvision's ---------------------------------------------------------------------------------------------------

# Each: our row, torchvision's class, and its arguments that are not the defaults.
V2 = {"norm_layer": nn.BatchNorm2d}


def torchvisions(head: str, **settings: Any) -> nn.Module:
    """Torchvision's model of that row, on ResNet-18 and of 11 classes."""
    v2, masks = head.endswith("_v2"), head.startswith("mask")
    norm = nn.BatchNorm2d if v2 else torchvision.ops.FrozenBatchNorm2d
    body = resnet_fpn_backbone(backbone_name="resnet18", weights=None, norm_layer=norm, trainable_layers=5)
    if v2:
        body.fpn = torchvision.ops.FeaturePyramidNetwork(
            [64, 128, 256, 512], 256, torchvision.ops.feature_pyramid_network.LastLevelMaxPool(), nn.BatchNorm2d
        )
        settings["rpn_head"] = detection.rpn.RPNHead(256, 3, conv_depth=2)
        settings["box_head"] = detection.faster_rcnn.FastRCNNConvFCHead(
            (256, 7, 7), [256] * 4, [1024], norm_layer=nn.BatchNorm2d
        )
    if v2 and masks:
        settings["mask_head"] = detection.mask_rcnn.MaskRCNNHeads(256, [256] * 4, 1, norm_layer=nn.BatchNorm2d)
    return (detection.MaskRCNN if masks else detection.FasterRCNN)(body, 11, **settings)


def make_pair(head: str, size: tuple[int, int]) -> tuple[nn.Module, Detector]:
    """Torchvision's model and ours in float64 with the same weights: sampling takes all, and there are detections."""
    torch.manual_seed(0)
    numbers: dict[str, Any] = {
        "rpn_post_nms_top_n_train": 40, "rpn_post_nms_top_n_test": 60,
        "rpn_batch_size_per_image": 10**6, "box_batch_size_per_image": 10**6, "box_detections_per_img": 15,
    }  # fmt: skip
    reference = torchvisions(head, min_size=size[0], max_size=size[1], **numbers)
    row = replace(vertebra.head_row(head), train_size=size, test_size=size, **numbers)
    norm = "batch" if head.endswith("_v2") else "frozen_batch"
    model = vertebra.create_model(row, backbone="resnet18", norm=norm, num_classes=11)
    vertebra.load_weights(model, reference.state_dict())
    for detector in (reference, model):
        scores = detector.roi_heads.box_predictor.cls_score.weight
        nn.init.normal_(scores, std=0.05, generator=torch.Generator().manual_seed(1))
    return reference.double(), model.double()


def in_training(model: nn.Module) -> nn.Module:
    """Training mode, but for batch norms: with what statistics they compute is not the detector's business."""
    model.train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    return model


def step(model: nn.Module, images: list[Tensor], targets: list[dict[str, Tensor]]) -> tuple[Losses, Losses]:
    """Return losses and gradients."""
    model.zero_grad()
    losses = in_training(model)(images, [dict(one) for one in targets])
    sum(losses.values()).backward()
    grads = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {name: value.detach() for name, value in losses.items()}, grads


ROWS = ["faster_rcnn", "mask_rcnn", "faster_rcnn_v2", "mask_rcnn_v2"]
WEIGHTS = {
    "faster_rcnn": detection.FasterRCNN_ResNet50_FPN_Weights,
    "mask_rcnn": detection.MaskRCNN_ResNet50_FPN_Weights,
    "faster_rcnn_v2": detection.FasterRCNN_ResNet50_FPN_V2_Weights,
    "mask_rcnn_v2": detection.MaskRCNN_ResNet50_FPN_V2_Weights,
}


@pytest.mark.parametrize("head", ROWS)
def test_parameter_counts_are_the_published(head: str) -> None:
    with torch.device("meta"):
        norm = "batch" if head.endswith("_v2") else "frozen_batch"
        model = vertebra.create_model(head, backbone="resnet50", norm=norm, num_classes=91)
    assert sum(p.numel() for p in model.parameters()) == WEIGHTS[head].COCO_V1.meta["num_params"]


@pytest.fixture(scope="module", params=ROWS)
def pair(request: pytest.FixtureRequest) -> tuple[nn.Module, Detector]:
    return make_pair(request.param, (128, 160))


def test_detections_equal_torchvision(pair: tuple[nn.Module, Detector]) -> None:
    reference, model = pair
    images = [image.double() for image in IMAGES]
    with torch.no_grad():
        expected, found = reference.eval()(images), model.eval()(images)
    assert_equal_detections(found, expected)


def assert_equal_detections(found: list[dict[str, Any]], expected: list[dict[str, Tensor]]) -> None:
    for theirs, ours in zip(expected, found, strict=True):
        assert len(theirs["boxes"]) > 5
        assert set(ours) == set(theirs)
        assert torch.equal(ours["labels"], theirs["labels"])
        # torchvision scales boxes to the given image in float32
        torch.testing.assert_close(ours["boxes"], theirs["boxes"], rtol=1e-6, atol=1e-8)
        torch.testing.assert_close(ours["scores"], theirs["scores"], rtol=1e-8, atol=1e-8)
        if "masks" in theirs:  # ours are made in float32
            torch.testing.assert_close(ours["masks"].double(), theirs["masks"], rtol=1e-4, atol=1e-5)


def test_losses_and_gradients_equal_torchvision(pair: tuple[nn.Module, Detector]) -> None:
    """Of an image with two objects and one without any."""
    reference, model = pair
    images = [image.double() for image in IMAGES]
    (losses, gradients), (expected, their_gradients) = (step(m, images, TARGETS) for m in (model, reference))
    assert set(losses) == set(expected)
    for name, value in expected.items():
        # torchvision's objectness loss is summed up in float32
        torch.testing.assert_close(losses[name].double(), value.double(), rtol=1e-6, atol=1e-8)
    assert set(gradients) == set(their_gradients)
    for name, value in their_gradients.items():
        torch.testing.assert_close(gradients[name], value, rtol=1e-6, atol=1e-8 * float(value.abs().max() + 1))


@pytest.mark.slow
@pytest.mark.parametrize("head", ROWS)
def test_coco_images_equal_torchvision(head: str, real_data: Path) -> None:
    """Four photographs of four sizes, with up to a score of objects and a crowd among them; float64."""
    from pycocotools.coco import COCO

    coco = COCO(str(real_data / "coco_mini/annotations/instances_val2017.json"))
    ids = sorted(coco.getImgIds(), key=lambda i: (-len(coco.getAnnIds(i, iscrowd=True)), -len(coco.getAnnIds(i)), i))[
        :4
    ]
    images, targets = [], []
    for record in coco.loadImgs(ids):
        path = real_data / "coco_mini/val2017" / record["file_name"]
        images.append(torchvision.io.read_image(str(path), torchvision.io.ImageReadMode.RGB).double() / 255)
        objects = coco.loadAnns(coco.getAnnIds(record["id"], iscrowd=False))
        boxes = torch.tensor([o["bbox"] for o in objects], dtype=torch.float64)
        boxes[:, 2:] += boxes[:, :2]
        targets.append({
            "boxes": boxes,
            "labels": torch.tensor([o["category_id"] % 10 + 1 for o in objects]),
            "masks": torch.stack([torch.from_numpy(coco.annToMask(o)) for o in objects]),
        })  # fmt: skip
    assert len({tuple(image.shape) for image in images}) > 1
    reference, model = make_pair(head, (200, 333))
    with torch.no_grad():
        assert_equal_detections(model.eval()(images), reference.eval()(images))
    # Losses at the size of the batch, as torchvision scales the targets in float32.
    pairs = [at_short_side(image, one, 200) for image, one in zip(images, targets, strict=True)]
    images, targets = [image for image, _ in pairs], [one for _, one in pairs]
    (losses, gradients), (expected, their_gradients) = (step(m, images, targets) for m in (model, reference))
    for name, value in expected.items():
        torch.testing.assert_close(losses[name].double(), value.double(), rtol=1e-6, atol=1e-8)
    for name, value in their_gradients.items():
        torch.testing.assert_close(gradients[name], value, rtol=1e-6, atol=1e-6 * float(value.abs().max() + 1e-3))


def at_short_side(image: Tensor, one: dict[str, Tensor], side: int) -> tuple[Tensor, dict[str, Tensor]]:
    """Scale an image with its target."""
    height, width = image.shape[-2:]
    size = (side, side * width // height) if height < width else (side * height // width, side)
    factors = torch.tensor([size[1] / width, size[0] / height] * 2, dtype=torch.float64)
    masks = nn.functional.interpolate(one["masks"][:, None], size=size, mode="nearest").squeeze(1)
    scaled = nn.functional.interpolate(image[None], size=size, mode="bilinear").squeeze(0)
    return scaled, {**one, "boxes": one["boxes"] * factors, "masks": masks}


def test_one_level_equals_torchvision() -> None:
    """DC5: torchvision has no row for it, but takes its parts."""
    torch.manual_seed(0)
    ours = small_model("faster_rcnn_dc5", rpn_batch_size_per_image=10**6, box_batch_size_per_image=10**6).double()
    body = ours.backbone

    class Body(nn.Module):
        out_channels = 8

        def __init__(self) -> None:
            super().__init__()
            self.body = body

        def forward(self, x: Tensor) -> Tensor:
            return next(iter(self.body(x).values()))

    stride = body.feature_info[-1].stride
    reference = detection.FasterRCNN(
        Body(), min_size=128, max_size=160, rpn_post_nms_top_n_train=50, rpn_post_nms_top_n_test=20,
        rpn_anchor_generator=detection.anchor_utils.AnchorGenerator(
            (tuple(stride * scale for scale in (2, 4, 8, 16, 32)),), ((0.5, 1.0, 2.0),)
        ),
        box_roi_pool=torchvision.ops.MultiScaleRoIAlign(["0"], 7, 2),
        box_head=detection.faster_rcnn.TwoMLPHead(8 * 49, 32),
        box_predictor=detection.faster_rcnn.FastRCNNPredictor(32, 3),
        rpn_batch_size_per_image=10**6, box_batch_size_per_image=10**6,
    ).double()  # fmt: skip
    state = {key.removeprefix("backbone."): value for key, value in ours.state_dict().items()}
    heads = {key: value for key, value in state.items() if key.startswith(("rpn.", "roi_heads."))}
    reference.load_state_dict({**heads, **{f"backbone.{k}": v for k, v in reference.backbone.state_dict().items()}})
    images = [image.double() for image in IMAGES]
    losses, expected = (in_training(model)(images, TARGETS) for model in (ours, reference))
    for name, value in expected.items():
        torch.testing.assert_close(losses[name].double(), value.double(), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("head", ["mask_rcnn", "mask_rcnn_v2"])
def test_recomputing_changes_nothing_but_what_is_kept(head: str) -> None:
    """Losses, gradients and running statistics; and nothing that the heads pool from boxes is kept."""
    targets = [{**one, "seed": torch.tensor(i)} for i, one in enumerate(TARGETS)]
    results = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        row = replace(vertebra.row("resnet18"), widths=(8, 8, 8, 8))
        made = vertebra.create_model(small_row(head), backbone=row, num_classes=3, checkpointing=checkpointing)
        model = made.double().train()
        kept: list[Tensor] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, kept=kept: kept.append(t) or t, lambda t: t):
            losses = model([image.double() for image in IMAGES], targets)
        sum(losses.values()).backward()
        gradients = {name: p.grad for name, p in model.named_parameters()}
        results.append(({**losses}, gradients, model.state_dict()))
        assert any(t.shape[1:] in ((16, 7, 7), (16, 14, 14)) for t in kept) is not checkpointing
    torch.testing.assert_close(*results)


# --- on its own ------------------------------------------------------------------------------------------------------


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


HEADS = ["faster_rcnn", "mask_rcnn", "faster_rcnn_v2", "mask_rcnn_v2", "faster_rcnn_dc5", "mask_rcnn_dc5"]


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("targets", [TARGETS, [target([], [], 128, 160), EMPTY]])
def test_every_row_trains_and_detects(head: str, targets: list[dict[str, Tensor]]) -> None:
    """Also from a batch without any object; every trainable weight has a gradient, and it is finite."""
    model = small_model(head).train()
    losses = model(IMAGES, targets)
    sum(losses.values()).backward()
    assert ("loss_mask" in losses) is head.startswith("mask")
    assert all(bool(torch.isfinite(value)) for value in losses.values())
    if not len(targets[0]["boxes"]):
        assert losses["loss_box_reg"].item() == losses["loss_rpn_box_reg"].item() == 0
    for name, weight in model.named_parameters():
        assert weight.grad is not None, name
        assert bool(weight.grad.isfinite().all()), name
    model.eval()
    with torch.no_grad():
        found = model(IMAGES)
    assert [set(one) for one in found] == [{"boxes", "scores", *model.target_keys} - {"image_id"}] * 2
    if head.startswith("mask"):
        assert [one["masks"].shape[1:] for one in found] == [(1, 128, 160), (1, 150, 120)]


def test_run_lengths_are_the_dense_masks() -> None:
    dense = small_model("mask_rcnn", box_score_thresh=0.0).eval()
    short = small_model("mask_rcnn", box_score_thresh=0.0, mask_format="rle").eval()
    with torch.no_grad():
        expected, found = dense(IMAGES), short(IMAGES)
    for one, other in zip(expected, found, strict=True):
        assert len(other["masks"]) == len(one["masks"]) > 0
        masks = torch.from_numpy(coco_mask.decode(other["masks"])).permute(2, 0, 1)
        same = (masks.bool() == (one["masks"][:, 0] > 0.5)) | ((one["masks"][:, 0] - 0.5).abs() < 1e-5)
        assert bool(same.all())


def test_a_batch_gives_what_its_images_give() -> None:
    """Of equal sizes, as padding is seen at the border."""
    model = small_model("mask_rcnn", box_score_thresh=0.0).double().eval()
    images = [IMAGES[0].double(), IMAGES[0].double().flip(0), torch.zeros(3, 128, 160, dtype=torch.float64)]
    with torch.no_grad():
        together, alone = model(images), [model([image])[0] for image in images]
    for one, other in zip(together, alone, strict=True):
        for key, value in other.items():
            torch.testing.assert_close(one[key], value)


def test_weights_have_the_same_losses_whatever_the_padding() -> None:
    """`pad_to` adds pixels on the right and at the bottom alone."""
    model = small_model(pad_to=((256, 256), (160, 192), (64, 64)), test_size=None).eval()
    seen: list[tuple[int, ...]] = []
    model.backbone.register_forward_hook(lambda module, given, out: seen.append(tuple(given[0].shape)))
    with torch.no_grad():
        for side in (60, 130, 300):
            model([torch.rand(3, side, side)])
    assert seen == [(1, 3, 64, 64), (1, 3, 160, 192), (1, 3, 320, 320)]  # the last fits none


def test_the_trunk_compiles_whole_and_once() -> None:
    """Without a graph break, and for images of many sizes only once, as `pad_to` gives them one shape."""
    model = small_model(pad_to=((160, 192),), train_size=None).train()
    compiled: list[int] = []

    def count(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        compiled.append(1)
        return graph

    model.compile(backend=count, fullgraph=True)
    keys = list(model.state_dict())
    torch._dynamo.reset()
    for height, width in ((128, 160), (150, 120), (99, 171)):
        model([torch.rand(3, height, width)], [target([[5.0, 5, 60, 60]], [1], height, width)])
    assert len(compiled) == 2  # backbone and RPN head
    assert list(model.state_dict()) == keys


def test_without_a_proposal_nothing_is_found() -> None:
    model = small_model("mask_rcnn").eval()
    nn.init.constant_(model.rpn.head.bbox_pred.bias, -1e9)  # all boxes far outside, on the left
    with torch.no_grad():
        found = model(IMAGES)
    assert [{key: len(value) for key, value in one.items()} for one in found] == [
        {"boxes": 0, "labels": 0, "scores": 0, "masks": 0}
    ] * 2


@pytest.mark.parametrize("head", HEADS)
def test_losses_do_not_wait_for_the_device(head: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors without values refuse whatever would read one back to the host; suppression alone needs to."""
    monkeypatch.setattr(rpn, "survivors", lambda boxes, scores, *rest: torch.arange(len(scores), device=boxes.device))
    with FakeTensorMode():
        with torch.device("cuda"):
            model = small_model(head, train_size=None).train()
            images = [torch.rand(3, 128, 160), torch.rand(3, 150, 120)]
            targets = [target([[10.0, 20, 60, 90]], [1], 128, 160), target([], [], 150, 120)]
        losses = model(images, targets)
    assert {value.device.type for value in losses.values()} == {"cuda"}


def test_autocast_keeps_boxes_exact() -> None:
    model = small_model("mask_rcnn").eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        found = model(IMAGES)
        losses = model.losses(IMAGES, TARGETS)
    assert {value.dtype for value in losses.values()} == {torch.float32}
    assert {one[key].dtype for one in found for key in ("boxes", "scores")} == {torch.float32}


@pytest.mark.parametrize("head", ["faster_rcnn", "mask_rcnn"])
def test_odd_input_works(head: str) -> None:
    """One pixel; 500 objects."""
    model = small_model(head, train_size=None, test_size=None).train()
    boxes = (torch.rand(500, 4) * 50).tolist()
    crowd = target([[x, y, x + w + 1, y + h + 1] for x, y, w, h in boxes], [1] * 500, 128, 160)
    losses = model([IMAGES[0], torch.rand(3, 1, 1)], [crowd, target([], [], 1, 1)])
    assert math.isfinite(sum(value.item() for value in losses.values()))
    with torch.no_grad():
        assert len(model.eval()([torch.rand(3, 1, 1)])) == 1


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


def anchor_sides(model: Detector) -> list[float]:
    """The sides of each level's square anchor."""
    return [float(cells[1, 2] - cells[1, 0]) for cells in model.rpn.anchors.cells]


def test_anchors_follow_the_strides() -> None:
    model = vertebra.create_model("faster_rcnn", backbone="resnet18", num_classes=2)
    assert anchor_sides(model) == [32, 64, 128, 256, 512]  # arXiv:1612.03144, section 4.1
    model = vertebra.create_model("faster_rcnn", backbone="resnet18", num_classes=2, out_features=("c3", "c4"))
    assert anchor_sides(model) == [64, 128, 256]
    model = vertebra.create_model("faster_rcnn_dc5", backbone="resnet18", num_classes=2, output_stride=16)
    assert [info.stride for info in model.backbone.feature_info] == [16]
    assert model.rpn.anchors.per_cell == 15


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
        (
            with_target(boxes=torch.tensor([[5.0, 5, torch.nan, 9]]), labels=torch.tensor([1])),
            r"targets\[1\]\['boxes'\]\[0\] = \[5.0, 5.0, nan, 9.0\] has no area",
        ),
        ([TARGETS[0], {"boxes": torch.zeros(0, 4)}], r"targets\[1\] has no labels"),
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
            r"distinct strides, but the backbone has \[4, 8, 16, 16\].*\(faster_rcnn_dc5",
        ),
        (lambda: small_model().train()(IMAGES), "needs targets"),
        (lambda: small_model().eval()([IMAGES[0], IMAGES[1] * torch.nan]), "image 1 holds NaN"),
        (lambda: small_model("mask_rcnn", mask_format="rel"), "Did you mean 'rle'"),
        (
            lambda: small_model("mask_rcnn")(IMAGES, [{**TARGETS[0], "masks": TARGETS[0]["masks"][:1]}, EMPTY]),
            r"targets\[0\]\['masks'\] is torch.uint8 of shape \(1, 128, 160\); uint8 or bool \(2, 128, 160\)",
        ),
    ],
)
def test_bad_calls_are_named(call: Callable[[], object], message: str) -> None:
    with pytest.raises(vertebra.InputError, match=message):
        call()


def test_list_heads() -> None:
    assert set(HEADS) <= set(vertebra.list_heads())


SMALLEST = [
    "resnet18", "resnet18d", "resnet50c", "resnetv2_18", "resnext50_32x4d", "densenet121", "vgg16_bn", "plain18",
    "resnet20", "wrn40_1", "densenet40_k12", "densenet_bc100_k12", "highway32_bn", "plain20", "timm/test_resnet",
]  # fmt: skip


@pytest.mark.parametrize("head", ["faster_rcnn", "mask_rcnn"])
@pytest.mark.parametrize("backbone", SMALLEST)
def test_every_family_trains(head: str, backbone: str) -> None:
    """On generated shapes, with FPN: the loss of one batch falls within a few steps."""
    torch.manual_seed(0)
    images, targets = shapes_batch()
    row = small_row(
        head, train_size=None, anchor_scales=(4.0,), rpn_post_nms_top_n_train=16, box_batch_size_per_image=16
    )
    model = vertebra.create_model(row, backbone=backbone, num_classes=5).train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3)
    history = []
    for _ in range(4):
        torch.manual_seed(1)  # the same sample of anchors and proposals
        losses = model(images, targets)
        total = torch.stack(list(losses.values())).sum()
        optimiser.zero_grad()
        total.backward()
        optimiser.step()
        history.append(total.item())
    assert ("loss_mask" in losses) is (head == "mask_rcnn")
    assert history[-1] < history[0]


@cache
def shapes_batch() -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """Two generated pictures of 32 pixels with their objects."""
    labels = {id: label for label, (id, _) in enumerate(SHAPES.values(), start=1)}
    images, targets = [], []
    for i in range(2):
        pixels, objects = draw_image(Shapes(size=32, objects=2), np.random.default_rng(i))
        masks = torch.from_numpy(np.stack([mask for _, mask in objects]))
        images.append(torch.from_numpy(pixels).permute(2, 0, 1))
        targets.append({
            "boxes": torchvision.ops.masks_to_boxes(masks) + torch.tensor([0, 0, 1, 1]),
            "labels": torch.tensor([labels[id] for id, _ in objects]),
            "masks": masks,
        })  # fmt: skip
    return images, targets
