"""Backbones of ours that were trained in other pipelines come back out of their checkpoints, strictly."""

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import nn

import vertebra

NAME = "small_densenet121"  # its keys are ours alone


def of_torchvision() -> nn.Module:
    from torchvision.models.detection import FasterRCNN

    adapter = import_module("vertebra.backbones.adapters.torchvision")
    return FasterRCNN(adapter.pyramid(NAME, out_channels=16), num_classes=3)


def of_timm() -> nn.Module:
    import timm

    import_module("vertebra.backbones.adapters.timm")
    return timm.create_model(f"vertebra_{NAME}", num_classes=7)


def of_smp() -> nn.Module:
    import segmentation_models_pytorch as smp

    import_module("vertebra.backbones.adapters.smp")
    model = smp.Unet(f"vertebra-{NAME}", encoder_weights=None)
    model.encoder.body.preprocessing = vertebra.Preprocessing((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    return model


def of_mmengine() -> nn.Module:
    from mmengine.registry import MODELS

    import_module("vertebra.backbones.adapters.mmdet")
    detector = nn.Module()
    detector.backbone = MODELS.build({"type": "VertebraBackbone", "name": NAME})
    detector.neck = nn.Conv2d(3, 3, 1)
    return detector


def of_detectron2() -> nn.Module:
    from detectron2.config import get_cfg
    from detectron2.modeling import build_backbone

    import_module("vertebra.backbones.adapters.detectron2")
    cfg = get_cfg()
    cfg.MODEL.BACKBONE.NAME = "build_vertebra_fpn_backbone"
    cfg.MODEL.VERTEBRA.NAME, cfg.MODEL.VERTEBRA.NORM = NAME, "BN"
    cfg.MODEL.FPN.IN_FEATURES = ["res2", "res3", "res4", "res5"]
    detector = nn.Module()
    detector.backbone = build_backbone(cfg)
    return detector


@pytest.mark.parametrize(
    ("package", "build"),
    [
        ("torchvision", of_torchvision),
        ("timm", of_timm),
        ("segmentation_models_pytorch", of_smp),
        ("mmengine", of_mmengine),
        ("detectron2", of_detectron2),
    ],
)
def test_a_backbone_comes_back(package: str, build: Callable[[], nn.Module], tmp_path: Path) -> None:
    if find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    model = build()
    (body,) = (module for module in model.modules() if isinstance(module, vertebra.Backbone))
    torch.save({"state_dict": model.state_dict()}, tmp_path / "model.pth")
    back = vertebra.create_backbone(NAME, weights=tmp_path / "model.pth")
    assert back.state_dict().keys() == body.state_dict().keys()
    assert all(torch.equal(value, body.state_dict()[key]) for key, value in back.state_dict().items())
    assert back.preprocessing == (body.preprocessing if package.startswith("segm") else vertebra.Preprocessing())
