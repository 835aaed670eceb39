"""Weights to and from torchvision and timm: equal features, and no tensor lost."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

import vertebra
from vertebra.backbones.exchange import convert
from vertebra.backbones.tensor_files import read_state
from vertebra.backbones.weights import recorded_norm_eps

Randomise = Callable[[nn.Module], nn.Module]

IMAGES = torch.randn(1, 3, 64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def difference(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


def last(network: nn.Module, images: Tensor = IMAGES) -> Tensor:
    with torch.no_grad():
        return list(network.double().eval()(images).values())[-1]


def classifier(library: str, name: str) -> nn.Module:
    return torchvision.models.get_model(name) if library == "torchvision" else timm.create_model(name)


def torchvisions_last(name: str, network: nn.Module) -> Tensor:
    with torch.no_grad():
        if name.startswith("densenet"):
            return network.features(IMAGES).relu()
        return (network.features if name.startswith("vgg") else nn.Sequential(*list(network.children())[:-2]))(IMAGES)


QUICK = (
    ("torchvision", "resnet18"), ("torchvision", "resnext50_32x4d"), ("torchvision", "densenet121"),
    ("torchvision", "vgg16_bn"), ("timm", "resnet18d"), ("timm", "resnetv2_18"),
)  # fmt: skip
SLOW = (
    ("torchvision", "wide_resnet50_2"), ("torchvision", "vgg19"), ("timm", "resnet50"), ("timm", "resnet50c"),
    ("timm", "resnetv2_50"), ("timm", "densenet121"), ("timm", "vgg16"),
)  # fmt: skip


@pytest.mark.parametrize(("library", "name"), [*QUICK, *(pytest.param(*pair, marks=pytest.mark.slow) for pair in SLOW)])
def test_torchvision_and_timm_both_ways(
    tmp_path: Path, randomise_statistics: Randomise, library: str, name: str
) -> None:
    torch.manual_seed(0)
    peer = randomise_statistics(classifier(library, name)).eval()
    # The fully connected layers of VGG would take half a gigabyte of disk.
    large = ("classifier.", "pre_logits.")
    state = {key: value for key, value in peer.state_dict().items() if not key.startswith(large)}
    torch.save(state, tmp_path / "theirs.pth")
    read = convert(tmp_path / "theirs.pth", tmp_path / "ours.pth", name, layout=library)
    assert read.compared == {library: 0.0}
    network = vertebra.create_backbone(name, weights=tmp_path / "ours.pth")
    expected = peer.double().forward_features(IMAGES) if library == "timm" else torchvisions_last(name, peer.double())
    assert difference(last(network), expected.detach()) < 1e-10

    written = convert(tmp_path / "ours.pth", tmp_path / "back.safetensors", name, to=library)
    assert written.compared == {library: 0.0}
    back = read_state(tmp_path / "back.safetensors")
    heads = network.droppable_keys
    assert set(back) == {key for key in state if not key.startswith(heads) and not key.endswith("num_batches_tracked")}
    assert all(torch.equal(value, state[key]) for key, value in back.items())


def test_timm_reads_our_file_as_its_users_do(tmp_path: Path) -> None:
    torch.save(vertebra.create_backbone("resnet18").state_dict(), tmp_path / "ours.pth")
    convert(tmp_path / "ours.pth", tmp_path / "theirs.safetensors", "resnet18", to="timm")
    model = timm.create_model("resnet18", num_classes=0, checkpoint_path=str(tmp_path / "theirs.safetensors"))
    ours = vertebra.create_backbone("resnet18", weights=tmp_path / "ours.pth")
    assert difference(last(ours), model.double().eval().forward_features(IMAGES).detach()) < 1e-12


def test_published_densenet_files_have_older_names(tmp_path: Path) -> None:
    old = {}
    for key, value in torchvision.models.densenet121().state_dict().items():
        if "denselayer" in key:
            for i in "12":
                key = key.replace(f"norm{i}.", f"norm.{i}.").replace(f"conv{i}.", f"conv.{i}.")
        old[key] = value
    assert any(".norm.1." in key for key in old)
    torch.save(old, tmp_path / "old.pth")
    done = convert(tmp_path / "old.pth", tmp_path / "ours.pth", "densenet121")
    assert done.reading.layout == "torchvision"
    assert len(done.reading.state) == len(vertebra.create_backbone("densenet121").state_dict()) - 121


def test_the_backbone_of_a_detector_of_torchvision(tmp_path: Path) -> None:
    detector = torchvision.models.detection.fasterrcnn_resnet50_fpn(weights_backbone=None)
    torch.save({"model": detector.state_dict(), "epoch": 3}, tmp_path / "detector.pth")
    done = convert(tmp_path / "detector.pth", tmp_path / "ours.pth", "resnet50")
    assert done.reading.prefix == "backbone.body."
    assert {key.split(".")[0] for key in done.reading.dropped} == {"backbone", "rpn", "roi_heads"}
    assert "left out: backbone (16), roi_heads (8), rpn (6), 53 num_batches_tracked" in done.lines()
    ours = vertebra.create_backbone("resnet50", weights=tmp_path / "ours.pth")
    assert torch.equal(ours.layer4[2].conv3.weight, detector.backbone.body.layer4[2].conv3.weight)
    assert not any("frozen" in line for line in done.lines())
    frozen = {key: value for key, value in detector.state_dict().items() if "num_batches_tracked" not in key}
    torch.save(frozen, tmp_path / "frozen.pth")
    done = convert(tmp_path / "frozen.pth", tmp_path / "zero.pth", "resnet50", eps=0)
    assert any("norms were frozen" in line and "--eps 0" in line for line in done.lines())


def test_eps_is_carried(tmp_path: Path, randomise_statistics: Randomise) -> None:
    """Norms of published detectors have eps 0: ours keep theirs, and other frameworks get it in the variance."""
    peer = randomise_statistics(torchvision.models.resnet18(norm_layer=partial(nn.BatchNorm2d, eps=0.01))).eval()
    torch.save(peer.state_dict(), tmp_path / "theirs.pth")
    done = convert(tmp_path / "theirs.pth", tmp_path / "ours.pth", "resnet18", eps=0.01)
    network = vertebra.create_backbone("resnet18", weights=tmp_path / "ours.pth")
    assert recorded_norm_eps(network) == 0.01
    assert done.lines()[-1].endswith("eps of norms 0.01")
    expected = torchvisions_last("resnet18", peer.double())
    assert difference(last(network), expected) < 1e-12

    done = convert(tmp_path / "ours.pth", tmp_path / "back.pth", "resnet18", to="torchvision")
    usual = torchvision.models.resnet18(num_classes=2)
    usual.load_state_dict(torch.load(tmp_path / "back.pth"), strict=False)
    assert difference(torchvisions_last("resnet18", usual.double().eval()), expected) < 1e-6
    assert "eps of the norms was 0.01; the variances were changed by the difference to 1e-05" in done.lines()
