"""Weights to and from mmdetection and mmsegmentation: equal features, and what a checkpoint's configuration says."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import vertebra
from vertebra.backbones.exchange import convert

Randomise = Callable[[nn.Module], nn.Module]

IMAGES = torch.randn(1, 3, 64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
MMDET = {"reason": "mmdet is not installed: pip install mmengine mmcv mmdet"}

CAFFE = """
model = dict(
    backbone=dict(depth=50, frozen_stages=1, norm_eval=True, style='caffe', type='ResNet'),
    data_preprocessor=dict(bgr_to_rgb=False, mean=[103.53, 116.28, 123.675], std=[1.0, 1.0, 1.0], pad_size_divisor=32))
"""
OLDER = """
img_norm_cfg = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True)
model = dict(backbone=dict(type='ResNet', depth=50, style='pytorch'))
"""


def difference(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


def features(network: nn.Module) -> dict[str, Tensor]:
    with torch.no_grad():
        return network.double().eval()(IMAGES)


@pytest.fixture
def detector(tmp_path: Path, randomise_statistics: Randomise) -> Callable[..., Path]:
    """Write the checkpoint of a detector; plain ResNets have the same keys in mmdetection as ours."""

    def write(network: nn.Module, text: str, key: str = "cfg") -> Path:
        torch.manual_seed(0)
        state = {f"backbone.{key}": value for key, value in randomise_statistics(network).state_dict().items()}
        state |= {"neck.lateral_convs.0.conv.weight": torch.zeros(1), "rpn_head.rpn_cls.bias": torch.zeros(1)}
        torch.save({"meta": {key: text, "epoch": 12}, "state_dict": state, "optimizer": {}}, tmp_path / "epoch_12.pth")
        return tmp_path / "epoch_12.pth"

    return write


def test_a_caffe_detector_says_what_its_images_are(tmp_path: Path, detector: Callable[..., Path]) -> None:
    theirs = vertebra.create_backbone("resnet50_caffe")
    path = detector(theirs, CAFFE)
    done = convert(path, tmp_path / "ours.pth", "resnet50_caffe")
    assert (done.reading.layout, done.reading.prefix) == ("mmdet", "backbone.")
    assert done.reading.pixels is not None
    assert str(done.reading.pixels) == "BGR in 0..255, mean 103.53 116.28 123.675, std 1 1 1; as the file says"
    assert not any("does not say where its network" in line for line in done.lines())
    ours = vertebra.create_backbone("resnet50_caffe", weights=tmp_path / "ours.pth")
    picture = torch.randint(0, 256, (1, 3, 64, 64), generator=torch.Generator().manual_seed(0)).double()
    bgr = picture.flip(1) - torch.tensor([103.53, 116.28, 123.675], dtype=torch.float64)[:, None, None]
    with torch.no_grad():
        expected = theirs.double().eval()(bgr)["c5"]
        found = ours.double().eval()(ours.preprocessing.normalise(picture / 255))["c5"]
    assert difference(found, expected) < 1e-6


def test_checkpoints_of_version_2_too(tmp_path: Path, detector: Callable[..., Path]) -> None:
    path = detector(vertebra.create_backbone("resnet50"), OLDER, key="config")
    done = convert(path, tmp_path / "ours.pth", "resnet50")
    assert done.reading.pixels is not None
    assert (done.reading.pixels.channels, done.reading.pixels.according_to) == ("rgb", "as the file says")
    assert done.reading.network.preprocessing.mean == pytest.approx((0.485, 0.456, 0.406))


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        (CAFFE, "resnet50", r"says style='caffe': its bottlenecks stride in the first 1x1.*to resnet50_caffe$"),
        (OLDER, "resnet50_caffe", r"says style='pytorch': its bottlenecks stride in the 3x3.*to resnet50$"),
    ],
)
def test_the_wrong_stride_is_refused(
    tmp_path: Path, detector: Callable[..., Path], text: str, name: str, message: str
) -> None:
    path = detector(vertebra.create_backbone(name), text)
    with pytest.raises(vertebra.InputError, match=message):
        convert(path, tmp_path / "ours.pth", name)
    assert not (tmp_path / "ours.pth").exists()


def test_what_is_assumed_is_stated(tmp_path: Path, detector: Callable[..., Path]) -> None:
    path = detector(vertebra.create_backbone("resnet50_caffe"), "")
    done = convert(path, tmp_path / "ours.pth", "resnet50_caffe", layout="mmdet")
    text = "\n".join(done.lines())
    assert "BGR in 0..255, mean 103.53 116.28 123.675, std 1 1 1; assumed, for the file does not say" in text
    assert "resnet50_caffe strides in the first 1x1 of a bottleneck; the file does not say" in text
    assert "left out: neck, rpn_head, 53 num_batches_tracked" in text


def test_what_to_write_in_mmdetections_configuration(tmp_path: Path) -> None:
    torch.save(vertebra.create_backbone("resnext50_32x4d").state_dict(), tmp_path / "ours.pth")
    done = convert(tmp_path / "ours.pth", tmp_path / "theirs.pth", "resnext50_32x4d", to="mmdet")
    said: dict[str, Any] = {}
    exec("\n".join(done.advice[1:]), said)
    path = str(tmp_path / "theirs.pth")
    assert said["backbone"] == {
        "type": "ResNeXt", "depth": 50, "groups": 32, "base_width": 4, "style": "pytorch",
        "init_cfg": {"type": "Pretrained", "checkpoint": path},
    }  # fmt: skip
    assert said["data_preprocessor"] == {
        "bgr_to_rgb": True, "mean": [123.675, 116.28, 103.53], "std": [58.395, 57.12, 57.375]
    }  # fmt: skip


@pytest.mark.parametrize("name", ["wide_resnet50_2", "resnetv2_50", "resnet200", "resnet20"])
def test_networks_that_mmdetection_has_not(tmp_path: Path, name: str) -> None:
    with pytest.raises(vertebra.InputError, match=f"mmdet has no network like {name}; of ours it has resnet18, "):
        convert(tmp_path / "ours.pth", tmp_path / "theirs.pth", name, to="mmdet")


NETWORKS = [
    ("resnet18", "ResNet", {"depth": 18}),
    ("resnet50", "ResNet", {"depth": 50, "style": "pytorch"}),
    ("resnet50_caffe", "ResNet", {"depth": 50, "style": "caffe"}),
    ("resnet18d", "ResNetV1d", {"depth": 18}),
    ("resnet50d", "ResNetV1d", {"depth": 50}),
    ("resnet50c", "ResNet", {"depth": 50, "deep_stem": True}),
    ("resnext50_32x4d", "ResNeXt", {"depth": 50, "groups": 32, "base_width": 4}),
]


def both_ways(tmp_path: Path, name: str, build: Callable[[], nn.Module], randomise: Randomise) -> None:
    """Convert to ours and back, through what its runner would have written; compare features with its own network."""
    from mmengine.logging import HistoryBuffer
    from mmengine.runner import load_checkpoint

    torch.manual_seed(0)
    theirs = randomise(build())
    theirs.eval()  # returns nothing
    state = {f"backbone.{key}": value for key, value in theirs.state_dict().items()}
    history = {"loss": HistoryBuffer([1.0, 2.0], [1, 1])}
    content = {"meta": {}, "state_dict": {**state, "head.fc.bias": torch.zeros(1)}, "message_hub": history}
    torch.save(content, tmp_path / "epoch_1.pth")
    read = convert(tmp_path / "epoch_1.pth", tmp_path / "ours.pth", name, layout="mmdet")
    assert float(read.compared["mmdet"]) < 1e-10
    assert any("HistoryBuffer" in line for line in read.lines())
    ours = vertebra.create_backbone(name, weights=tmp_path / "ours.pth")
    with torch.no_grad():
        images = IMAGES.flip(1) if name.endswith("_caffe") else IMAGES
        expected = theirs.double()(images)
    for found, feature in zip(features(ours).values(), expected, strict=True):
        assert difference(found, feature) < 1e-10

    written = convert(tmp_path / "ours.pth", tmp_path / "back.pth", name, to="mmdet")
    assert float(written.compared["mmdet"]) < 1e-10
    fresh = build()
    fresh.eval()
    load_checkpoint(fresh, str(tmp_path / "back.pth"), strict=True)
    with torch.no_grad():
        assert difference(fresh.double()(IMAGES)[-1], features(ours)["c5"]) < 1e-10


@pytest.mark.parametrize(("name", "kind", "arguments"), NETWORKS)
def test_mmdetection_both_ways(
    tmp_path: Path, randomise_statistics: Randomise, name: str, kind: str, arguments: dict[str, Any]
) -> None:
    pytest.importorskip("mmdet", **MMDET)
    from mmdet.models import backbones

    both_ways(tmp_path, name, lambda: getattr(backbones, kind)(**arguments), randomise_statistics)


def test_mmsegmentations_v1c(tmp_path: Path, randomise_statistics: Randomise) -> None:
    pytest.importorskip("mmseg", reason="mmseg is not installed: pip install mmengine mmcv mmsegmentation")
    from mmseg.models.backbones import ResNetV1c

    both_ways(tmp_path, "resnet50c", lambda: ResNetV1c(depth=50), randomise_statistics)
