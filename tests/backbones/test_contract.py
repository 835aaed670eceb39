"""What every registered backbone promises, for every name: declared features are the real ones, exactly."""

from collections.abc import Callable
from dataclasses import replace
from math import ceil
from typing import Any

import pytest
import torch
from torch import nn

import vertebra
from vertebra.backbones.norms import NORMS
from vertebra.backbones.references import reference

Randomise = Callable[[nn.Module], nn.Module]

SIZES = [(97, 131), (33, 70), (1, 1)]


@pytest.fixture
def no_norms(monkeypatch: pytest.MonkeyPatch) -> None:
    """Norms keep shapes, and on the meta device they take nine tenths of the time."""
    monkeypatch.setitem(NORMS, "batch", lambda channels: nn.Identity())


def strides(name: str) -> dict[str, int]:
    """The strides of a family's features, from the papers' figures."""
    if name.startswith("vgg"):
        return {"c1": 1, "c2": 2, "c3": 4, "c4": 8, "c5": 16, "c6": 32}
    imagenet = {"c1": 2, "c2": 4, "c3": 8, "c4": 16, "c5": 32}
    return imagenet if reference(name).size == 224 else {"c2": 1, "c3": 2, "c4": 4}


@pytest.mark.usefixtures("no_norms")
@pytest.mark.parametrize("name", vertebra.list_backbones())
def test_declared_features_are_the_real_ones(name: str) -> None:
    for output_stride in (8, 16, 32):
        with torch.device("meta"), torch.no_grad():
            names = tuple(strides(name))
            network = vertebra.create_backbone(name, output_stride=output_stride, out_features=names).eval()
            for size in SIZES:
                features = network(torch.empty(1, 3, *size))
                real = {key: tuple(value.shape) for key, value in features.items()}
                declared = {
                    i.name: (1, i.channels, ceil(size[0] / i.stride), ceil(size[1] / i.stride))
                    for i in network.feature_info
                }
                assert real == declared
                assert list(features) == [info.name for info in network.feature_info]
        found = {info.name: info.stride for info in network.feature_info}
        assert found == {key: min(stride, output_stride) for key, stride in strides(name).items()}


# One of each family.
FAMILIES = (
    "resnet18", "resnet50d", "resnetv2_50", "resnext50_32x4d", "wide_resnet50_2", "densenet121", "resnet20",
    "resnetv2_110", "wrn16_8_dropout", "densenet40_k12", "highway19_bn", "plain18", "vgg16_bn", "resnet34_a",
)  # fmt: skip


@pytest.mark.parametrize("output_stride", [8, 16, 32])
@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_gives_a_pyramid(name: str, output_stride: int) -> None:
    with torch.device("meta"), torch.no_grad():
        pyramid = vertebra.create_pyramid(
            name, out_channels=8, output_stride=output_stride, norm="group", in_channels=5, frozen_stages=2
        )
        levels = pyramid(torch.empty(1, 5, 65, 97))
        for info in pyramid.feature_info:
            assert levels[info.name].shape == (1, 8, ceil(65 / info.stride), ceil(97 / info.stride))
    assert len(pyramid.preprocessing.mean) == 5


@pytest.mark.parametrize(
    ("name", "channels"),
    [("resnet18", (64, 128, 256, 512)), ("resnet50", (256, 512, 1024, 2048))],  # arXiv:1512.03385, table 1
)
def test_default_features(name: str, channels: tuple[int, ...]) -> None:
    with torch.device("meta"):
        info = vertebra.create_backbone(name).feature_info
    assert [(i.name, i.channels) for i in info] == list(zip(("c2", "c3", "c4", "c5"), channels, strict=True))


def narrow(name: str) -> Any:
    """The row with few channels and layers."""
    found = vertebra.row(name)
    small = {"widths": (8, 8, 16, 16)} if hasattr(found, "widths") else {"depths": (2, 2, 2, 2), "growth": 8}
    return found if name.startswith("vgg") else replace(found, **small)


@pytest.mark.parametrize(
    "name", ["resnet18", "resnet50", "resnet18d", "resnet34_a", "resnetv2_18", "densenet121", "vgg16_bn"]
)
@pytest.mark.parametrize("output_stride", [8, 16])
def test_dilated_network_computes_the_strided_one_at_more_places(
    name: str, output_stride: int, randomise_statistics: Randomise
) -> None:
    torch.manual_seed(0)
    strided = randomise_statistics(vertebra.create_backbone(narrow(name))).double().eval()
    dilated = vertebra.create_backbone(narrow(name), output_stride=output_stride).double().eval()
    dilated.load_state_dict(strided.state_dict())
    images = torch.randn(1, 3, 65, 97, dtype=torch.float64)
    expected, found = strided(images), dilated(images)
    strided_strides = {info.name: info.stride for info in strided.feature_info}
    for info in dilated.feature_info:
        step = strided_strides[info.name] // info.stride
        torch.testing.assert_close(found[info.name][..., ::step, ::step], expected[info.name], rtol=0, atol=1e-10)


def test_fewer_features_are_the_same_and_build_less() -> None:
    torch.manual_seed(0)
    full = vertebra.create_backbone("resnet18").eval()
    part = vertebra.create_backbone("resnet18", out_features=("c4", "c2")).eval()
    assert not hasattr(part, "layer4")
    report = vertebra.load_weights(part, full.state_dict())
    assert all(key.startswith("layer4.") for key in report.dropped)
    images = torch.randn(1, 3, 64, 64)
    expected, found = full(images), part(images)
    assert list(found) == ["c2", "c4"]
    for name, value in found.items():
        assert torch.equal(value, expected[name])


@pytest.mark.parametrize("in_channels", [1, 3, 5])
def test_input_channels_and_their_preprocessing(in_channels: int) -> None:
    network = vertebra.create_backbone("resnet18", in_channels=in_channels).eval()
    network(torch.randn(1, in_channels, 32, 32))
    mean, std = network.preprocessing.mean, network.preprocessing.std
    assert len(mean) == len(std) == in_channels
    expected = {1: ((0.485 + 0.456 + 0.406) / 3,), 3: (0.485, 0.456, 0.406), 5: (0.485, 0.456, 0.406, 0.485, 0.456)}
    assert mean == pytest.approx(expected[in_channels])


def test_preprocessing_takes_bytes_and_fractions() -> None:
    preprocessing = vertebra.Preprocessing()
    pixel = torch.tensor([124, 116, 104], dtype=torch.uint8)[:, None, None]
    # By hand: (124 / 255 - 0.485) / 0.229, and so on.
    expected = torch.tensor([0.005566, -0.004902, 0.008191])[:, None, None]
    torch.testing.assert_close(preprocessing.normalise(pixel), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(preprocessing.normalise(pixel / 255), expected, atol=1e-5, rtol=0)
    with pytest.raises(vertebra.InputError, match="1 channels, the backbone takes 3"):
        preprocessing.normalise(torch.zeros(1, 4, 4))


def test_gradients_reach_every_parameter() -> None:
    for name in ("resnet18", "resnet50", "resnetv2_50", "densenet121", "vgg16_bn", "highway19", "wrn16_8", "resnet20"):
        network = vertebra.create_backbone(name)
        features = network(torch.randn(2, 3, 64, 64))
        sum(feature.square().mean() for feature in features.values()).backward()
        assert all(p.grad is not None and bool(p.grad.any()) for p in network.parameters()), name


def test_stages_stay_frozen_where_their_norms_are_replaced() -> None:
    network = vertebra.create_backbone(narrow("resnet18"), frozen_stages=2)
    network = nn.SyncBatchNorm.convert_sync_batchnorm(network).train()
    assert isinstance(network.bn1, nn.SyncBatchNorm)
    assert not network.bn1.training
    assert not network.layer1[0].bn1.training
    assert network.layer2[0].bn1.training


def test_fewer_frozen_stages_let_the_others_learn_again() -> None:
    network = vertebra.create_backbone(narrow("resnet18"), frozen_stages=3).train()
    network.freeze_(1)
    assert not network.conv1.weight.requires_grad
    assert not network.bn1.training
    assert network.layer1[0].conv1.weight.requires_grad
    assert network.layer1[0].bn1.training
    network.freeze_(0)
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert all(module.training for module in network.modules())
