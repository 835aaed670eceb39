"""Backbones in torchvision's own detectors and segmenters, with its checkpoints, transforms and training loops."""

import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models import segmentation
from torchvision.models.detection import (
    FCOS,
    FasterRCNN,
    KeypointRCNN,
    MaskRCNN,
    RetinaNet,
    _utils,
    fasterrcnn_resnet50_fpn,
    fasterrcnn_resnet50_fpn_v2,
    fcos_resnet50_fpn,
    keypoint_rcnn,
    retinanet_resnet50_fpn,
    retinanet_resnet50_fpn_v2,
)
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.segmentation.deeplabv3 import DeepLabHead
from torchvision.models.segmentation.fcn import FCNHead
from torchvision.ops.feature_pyramid_network import LastLevelP6P7
from torchvision.transforms import v2

import vertebra
from vertebra.backbones.adapters import torchvision as adapter

Target = dict[str, Tensor]

IMAGES = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
MASKS = torch.zeros(2, 32, 32, dtype=torch.uint8)
MASKS[0, 4:20, 4:12] = MASKS[1, 10:30, 15:25] = 1
TARGET = {
    "boxes": torch.tensor([[4.0, 4, 20, 20], [10, 10, 30, 30]]),
    "labels": torch.tensor([1, 2]),
    "masks": MASKS,
    "keypoints": torch.tensor([[[5.0, 5, 1], [15, 15, 1]], [[15.0, 15, 1], [25, 25, 1]]]),
}
LABELS = torch.randint(0, 3, (2, 32, 32), generator=torch.Generator().manual_seed(0))


def small_detector(backbone: adapter.Source, detector: type[nn.Module] = FasterRCNN, **options: Any) -> nn.Module:
    torch.manual_seed(0)
    pyramid = adapter.pyramid(backbone, out_channels=32, **options)
    settings: dict[str, Any] = {"min_size": 32, "max_size": 32, **adapter.detector_options(pyramid, detector)}
    if issubclass(detector, FasterRCNN):
        settings |= {"rpn_post_nms_top_n_test": 20, "box_batch_size_per_image": 16, "box_detections_per_img": 5}
    if detector is KeypointRCNN:
        settings["keypoint_head"] = keypoint_rcnn.KeypointRCNNHeads(32, (16,))
        settings["keypoint_predictor"] = keypoint_rcnn.KeypointRCNNPredictor(16, 2)
    return detector(pyramid, num_classes=3, **settings)


def small_segmenter(backbone: adapter.Source, **options: Any) -> nn.Module:
    torch.manual_seed(0)
    body = adapter.body(backbone, **options)
    before, deepest = body.feature_info
    return segmentation.DeepLabV3(body, DeepLabHead(deepest.channels, 3, (1, 2, 3)), FCNHead(before.channels, 3))


def dilated(family: str) -> dict[str, Any]:
    """Output stride 8, of all but the network that has no such option."""
    return {} if family == "small_own" else {"output_stride": 8}


def criterion(outputs: Target, labels: Tensor) -> Tensor:
    """The loss of torchvision's reference for segmentation."""
    losses = {name: nn.functional.cross_entropy(x, labels, ignore_index=255) for name, x in outputs.items()}
    return losses["out"] + 0.5 * losses["aux"]


def loss_of(model: nn.Module) -> Tensor:
    if isinstance(model, segmentation.DeepLabV3):
        return criterion(model(IMAGES), LABELS)
    losses: dict[str, Tensor] = model(list(IMAGES), [dict(TARGET)] * 2)
    return torch.stack(list(losses.values())).sum()


def train_ten_steps(model: nn.Module) -> None:
    """What torchvision's references do in the first epoch: a warm-up, and a stop where the loss is not finite."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=0.02, momentum=0.9, weight_decay=1e-4)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=1 / 1000, total_iters=9)
    model.train()
    for _ in range(10):
        loss = loss_of(model)
        assert math.isfinite(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()


def evaluated(model: nn.Module) -> list[Tensor]:
    with torch.inference_mode():
        found = model.eval()(IMAGES if isinstance(model, segmentation.DeepLabV3) else list(IMAGES))
    return [x for one in (found if isinstance(found, list) else [found]) for x in one.values()]


def assert_equal(found: list[Tensor], expected: list[Tensor]) -> None:
    assert all(len(x) for x in expected)  # there are detections
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)


# --- each family in a whole model -------------------------------------------------------------------------------------


def check_whole_model(build: Callable[[], nn.Module], folder: Path) -> None:
    model = build()
    loss_of(model.train()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    found = evaluated(model)
    torch.save({"model": model.state_dict()}, folder / "model_0.pth")  # as the references do
    torch.manual_seed(1)
    again = build()
    nn.init.normal_(next(again.parameters()))
    again.load_state_dict(torch.load(folder / "model_0.pth", weights_only=True)["model"])
    assert_equal(evaluated(again), found)


def test_a_detector_on_each_family(family: str, tmp_path: Path) -> None:
    check_whole_model(lambda: small_detector(family), tmp_path)


def test_a_segmenter_on_each_family(family: str, tmp_path: Path) -> None:
    check_whole_model(lambda: small_segmenter(family, **dilated(family)), tmp_path)


def test_features_equal_the_bare_backbones(family: str) -> None:
    bare = vertebra.create_backbone(family, **dilated(family)).eval()
    body = adapter.body(family, **dilated(family)).eval()
    body.load_state_dict(bare.state_dict())
    maps = bare(IMAGES)
    assert list(body(IMAGES)) == ["aux", "out"]
    assert_equal(list(body(IMAGES).values()), list(maps.values())[-2:])

    bare = vertebra.create_backbone(family).eval()
    pyramid = adapter.pyramid(family, out_channels=32).eval()
    pyramid.body.load_state_dict(bare.state_dict())
    levels = [str(i) for i in range(len(bare.feature_info))]
    expected = pyramid.fpn(OrderedDict(zip(levels, bare(IMAGES).values(), strict=True)))
    found = pyramid(IMAGES)
    assert list(found) == [*levels, "pool"]
    assert_equal(list(found.values()), list(expected.values()))


@pytest.mark.parametrize("detector", [MaskRCNN, KeypointRCNN, RetinaNet, FCOS])
@pytest.mark.parametrize(
    ("backbone", "extra"),
    [("small_resnet18", None), ("small_resnet18", LastLevelP6P7(32, 32)), ("small_resnet20", None)],
)
def test_other_detectors(detector: type[nn.Module], backbone: str, extra: Any) -> None:
    """On levels from stride 8 as they were published, and on a CIFAR network's."""
    model = small_detector(backbone, detector, returned_layers=(2, 3), extra_blocks=extra)
    loss_of(model.train()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert {"boxes", "labels", "scores"} <= set(model.eval()(list(IMAGES))[0])


def test_lraspp_takes_other_names() -> None:
    body = adapter.body("small_resnet18", return_layers={"c3": "low", "c5": "high"})
    model = segmentation.LRASPP(body, *(info.channels for info in body.feature_info), num_classes=3)
    assert model(IMAGES)["out"].shape == (2, 3, 32, 32)


# --- torchvision's own checkpoints ------------------------------------------------------------------------------------


def randomise_classes(model: nn.Module) -> None:
    """Scores that differ, so that there are detections to compare."""
    nn.init.normal_(model.roi_heads.box_predictor.cls_score.weight, std=0.05)


def test_a_faster_rcnn_checkpoint(randomise_statistics: Callable[[nn.Module], nn.Module]) -> None:
    """Strictly, and with the eps of its COCO weights, which torchvision sets after building; in float64."""
    torch.manual_seed(0)
    sizes = {"num_classes": 91, "min_size": 32, "max_size": 32}
    published = fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None, **sizes)
    nn.init.normal_(published.roi_heads.box_predictor.cls_score.weight, std=0.05)  # scores that differ
    state = randomise_statistics(published).state_dict()
    frozen = resnet_fpn_backbone(
        backbone_name="resnet50", weights=None, norm_layer=torchvision.ops.FrozenBatchNorm2d, trainable_layers=3
    )
    pyramid = adapter.pyramid("resnet50", norm="frozen_batch", trainable_layers=3)
    results = []
    for model in (FasterRCNN(pyramid, **sizes), FasterRCNN(frozen, **sizes)):
        model.load_state_dict(state)
        _utils.overwrite_eps(model, 0.0)
        with torch.no_grad():
            results.append(model.double().eval()([IMAGES[0].double()])[0])
    found, expected = results
    assert len(expected["boxes"]) > 5
    assert torch.equal(found["labels"], expected["labels"])
    for name in ("boxes", "scores"):  # torchvision scales boxes to the given image in float32
        torch.testing.assert_close(found[name], expected[name], rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(
    ("reference", "options"),
    [
        (fasterrcnn_resnet50_fpn, {}),
        (fasterrcnn_resnet50_fpn_v2, {"fpn_norm": "batch"}),
        (retinanet_resnet50_fpn, {"returned_layers": (2, 3, 4), "extra_blocks": LastLevelP6P7(256, 256)}),
        (retinanet_resnet50_fpn_v2, {"returned_layers": (2, 3, 4), "extra_blocks": LastLevelP6P7(2048, 256)}),
        (fcos_resnet50_fpn, {"returned_layers": (2, 3, 4), "extra_blocks": LastLevelP6P7(256, 256)}),
    ],
)
def test_levels_and_keys_are_those_of_published_detectors(reference: Callable[..., nn.Module], options: Any) -> None:
    with torch.device("meta"):
        theirs = reference(weights=None, weights_backbone=None).backbone.eval()
    ours = adapter.pyramid("resnet50", **options).eval()
    theirs.to_empty(device="cpu").load_state_dict(ours.state_dict())
    with torch.no_grad():
        found, expected = ours(IMAGES), theirs(IMAGES)
    assert list(found) == list(expected)
    assert_equal(list(found.values()), list(expected.values()))


@pytest.mark.parametrize("name", ["deeplabv3_resnet50", "fcn_resnet50"])
def test_a_segmenters_checkpoint(randomise_statistics: Callable[[nn.Module], nn.Module], name: str) -> None:
    reference = getattr(segmentation, name)(weights=None, weights_backbone=None, num_classes=21, aux_loss=True)
    randomise_statistics(reference)
    body = adapter.body("resnet50", replace_stride_with_dilation=(False, True, True))
    head = DeepLabHead(2048, 21) if name.startswith("deeplab") else FCNHead(2048, 21)
    model = type(reference)(body, head, FCNHead(1024, 21))
    model.load_state_dict(reference.state_dict())
    with torch.no_grad():
        found, expected = model.eval()(IMAGES), reference.eval()(IMAGES)
    assert list(found) == list(expected)
    assert_equal(list(found.values()), list(expected.values()))


def test_a_classifiers_file_and_other_channels(tmp_path: Path) -> None:
    classifier = torchvision.models.resnet18().eval()
    torch.save(classifier.state_dict(), tmp_path / "resnet18.pth")
    pyramid = adapter.pyramid("resnet18", weights=tmp_path / "resnet18.pth")
    assert torch.equal(pyramid.body.conv1.weight, classifier.conv1.weight)
    model = small_detector("resnet18", weights=tmp_path / "resnet18.pth", in_channels=1)
    assert len(model.transform.image_mean) == 1
    assert model.eval()([IMAGES[0, :1]])[0]["boxes"].shape[1] == 4
    torch.save(model.state_dict(), tmp_path / "detector.pth")
    report = vertebra.load_weights(small_detector("resnet18", in_channels=1), tmp_path / "detector.pth")
    assert not report.dropped


# --- what a detector must be told -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reference", "detector", "options"),
    [
        (fasterrcnn_resnet50_fpn, FasterRCNN, {}),
        (torchvision.models.detection.maskrcnn_resnet50_fpn, MaskRCNN, {}),
        (torchvision.models.detection.keypointrcnn_resnet50_fpn, KeypointRCNN, {}),
        (retinanet_resnet50_fpn, RetinaNet, {"returned_layers": (2, 3, 4), "extra_blocks": LastLevelP6P7(256, 256)}),
        (fcos_resnet50_fpn, FCOS, {"returned_layers": (2, 3, 4), "extra_blocks": LastLevelP6P7(256, 256)}),
    ],
)
def test_options_are_torchvisions_defaults_on_its_strides(
    reference: Callable[..., nn.Module], detector: type[nn.Module], options: Any
) -> None:
    with torch.device("meta"):
        theirs = reference(weights=None, weights_backbone=None)
    found = adapter.detector_options(adapter.pyramid("small_resnet18", **options), detector)
    assert found.pop("image_mean") == theirs.transform.image_mean
    assert found.pop("image_std") == theirs.transform.image_std
    rcnn = issubclass(detector, FasterRCNN)
    anchors = found.pop("rpn_anchor_generator" if rcnn else "anchor_generator")
    expected = theirs.rpn.anchor_generator if rcnn else theirs.anchor_generator
    assert (anchors.sizes, anchors.aspect_ratios) == (expected.sizes, expected.aspect_ratios)
    for name, pool in found.items():
        assert repr(pool) == repr(getattr(theirs.roi_heads, name))


def test_anchors_follow_the_strides() -> None:
    """A CIFAR network's levels have strides 1, 2 and 4, and the pooled one 8; torchvision's defaults are for five."""
    pyramid = adapter.pyramid("small_resnet20")
    options = adapter.detector_options(pyramid)
    assert options["rpn_anchor_generator"].sizes == ((8,), (16,), (32,), (64,))
    assert options["box_roi_pool"].featmap_names == ["0", "1", "2"]
    model = FasterRCNN(pyramid, num_classes=3, min_size=32, max_size=32)
    with pytest.raises(AssertionError, match="match between the number of feature maps"):
        model.eval()([IMAGES[0]])


def test_a_dilated_pyramid_of_distinct_strides() -> None:
    pyramid = adapter.pyramid("resnet18", output_stride=16, returned_layers=(1, 2, 4))
    assert pyramid.strides == [4, 8, 16, 32]
    assert [x.shape[-1] for x in pyramid(IMAGES).values()] == [32 // stride for stride in pyramid.strides]


# --- preprocessing ----------------------------------------------------------------------------------------------------


def test_features_of_a_picture_are_those_of_torchvisions_preprocessing() -> None:
    """Of a backbone whose means are its own, by the detector's transform and by that of a segmentation script."""
    picture = (IMAGES[0] * 255).to(torch.uint8)
    backbone = vertebra.create_backbone("small_resnet50").eval()
    backbone.preprocessing = vertebra.Preprocessing((0.1, 0.2, 0.3), (0.5, 0.6, 0.7))
    expected = backbone(backbone.preprocessing.normalise(picture)[None])
    convert = v2.ToDtype(torch.float32, scale=True)

    model = small_detector(backbone)
    batch, _ = model.transform([convert(picture)])
    assert_close(model.backbone.body(batch.tensors), list(expected.values()))

    body = adapter.body(backbone)
    normalise = v2.Normalize(mean=body.preprocessing.mean, std=body.preprocessing.std)
    assert_close(body(normalise(convert(picture))[None]), [expected["c4"], expected["c5"]])


def assert_close(found: dict[str, Tensor], expected: list[Tensor]) -> None:
    for one, other in zip(found.values(), expected, strict=True):
        torch.testing.assert_close(one, other)


# --- freezing and training --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("build", [small_detector, small_segmenter])
def test_frozen_layers_stay_as_they_are(build: Callable[..., nn.Module], family: str) -> None:
    count = len(vertebra.create_backbone(family).stages())
    model = build(family, trainable_layers=count - 2)
    backbone = model.backbone if build is small_segmenter else model.backbone.body
    stages = [nn.ModuleList(stage) for stage in backbone.stages()]
    before = [{key: value.clone() for key, value in stage.state_dict().items()} for stage in stages]
    train_ten_steps(model)
    for i, (stage, old) in enumerate(zip(stages, before, strict=True)):
        moved = {key for key, value in stage.state_dict().items() if not torch.equal(value, old[key])}
        if i < 2:
            assert not moved
            assert not any(module.training for module in stage.modules() if module is not stage)
        else:
            assert {key for key in old if key.endswith(("weight", "running_mean"))} <= moved


@pytest.mark.parametrize("layers", range(6))
def test_trainable_layers_are_torchvisions(layers: int) -> None:
    norm = nn.BatchNorm2d
    theirs = resnet_fpn_backbone(
        backbone_name="resnet18", weights=None, norm_layer=norm, trainable_layers=layers, returned_layers=[1, 2, 3]
    )
    ours = adapter.pyramid("resnet18", trainable_layers=layers, returned_layers=[1, 2, 3])
    assert {n: p.requires_grad for n, p in ours.named_parameters()} == {
        n: p.requires_grad for n, p in theirs.named_parameters()
    }


@pytest.mark.parametrize("head", ["faster_rcnn", "mask_rcnn"])
def test_our_detectors_in_its_training_loop(head: str) -> None:
    """They take and give what torchvision's do."""
    torch.manual_seed(0)
    small: dict[str, Any] = {"train_size": (32, 32), "test_size": (32, 32), "fpn_channels": 32, "box_head_channels": 32}
    if head == "mask_rcnn":
        small |= {"mask_convs": 1, "mask_channels": 8}
    row = replace(vertebra.head_row(head), box_batch_size_per_image=16, **small)
    model = vertebra.create_model(row, backbone="small_resnet18", num_classes=3)
    before = model.backbone.body.conv1.weight.clone()
    train_ten_steps(model)
    assert not torch.equal(model.backbone.body.conv1.weight, before)
    keys = {"boxes", "labels", "scores"} | ({"masks"} if head == "mask_rcnn" else set())
    assert all(set(found) == keys for found in model.eval()(list(IMAGES)))


# --- wrong use --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: adapter.pyramid("resnet5O"), "unknown backbone 'resnet5O'. Did you mean 'resnet50'"),
        (lambda: adapter.body("resnet18", return_layers={"layer4": "out"}), "unknown feature of .* 'layer4'"),
        (lambda: adapter.body("resnet18", return_layers={}), "out_features is empty"),
        (
            lambda: adapter.pyramid("resnet18", returned_layers=[0, 5]),
            r"each returned layer should be in the range \[1,4\]; got \[0, 5\]",
        ),
        (
            lambda: adapter.pyramid("resnet18", trainable_layers=6),
            r"trainable layers should be in the range \[0,5\], got 6",
        ),
        (
            lambda: adapter.pyramid("resnet18", trainable_layers=3, frozen_stages=2),
            "trainable_layers and frozen_stages say the same",
        ),
        (lambda: adapter.pyramid("resnet18", output_stride=8), r"levels of distinct strides.*\[4, 8, 8, 8\]"),
        (
            lambda: adapter.body("resnet18", output_stride=8, replace_stride_with_dilation=(False, True, True)),
            "replace_stride_with_dilation and output_stride say the same",
        ),
        (
            lambda: adapter.body("resnet18", replace_stride_with_dilation=(True, False, False)),
            r"replace_stride_with_dilation=\(True, False, False\); it can be \(False, False, False\), ",
        ),
        (
            lambda: adapter.body(vertebra.create_backbone("small_resnet18"), output_stride=8),
            "output_stride: the backbone is built already",
        ),
        (lambda: adapter.pyramid(vertebra.create_pyramid("small_resnet18")), "has an FPN already"),
        (
            lambda: adapter.detector_options(adapter.pyramid("small_resnet18"), torchvision.models.detection.ssd.SSD),
            "detector=SSD; it can be FasterRCNN, RetinaNet, FCOS",
        ),
        (
            lambda: adapter.detector_options(adapter.pyramid("small_resnet20"), FCOS),
            "FCOS's anchors at stride 1 to nothing",
        ),
    ],
)
def test_wrong_use_is_one_clear_error(call: Callable[[], object], message: str) -> None:
    with pytest.raises(vertebra.InputError, match=message):
        call()
