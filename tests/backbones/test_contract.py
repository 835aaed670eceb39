"""What every registered backbone promises, for every name: declared features are the real ones, exactly."""

from collections.abc import Callable
from dataclasses import replace
from math import ceil

import pytest
import torch
from torch import nn

import vertebra

Randomise = Callable[[nn.Module], nn.Module]

ALL = ("c1", "c2", "c3", "c4", "c5")
SIZES = [(64, 64), (97, 131), (33, 70), (1, 1)]


@pytest.mark.parametrize("output_stride", [8, 16, 32])
@pytest.mark.parametrize("name", vertebra.list_backbones())
def test_declared_features_are_the_real_ones(name: str, output_stride: int) -> None:
    with torch.device("meta"):
        network = vertebra.create_backbone(name, output_stride=output_stride, out_features=ALL)
        for size in SIZES:
            features = network(torch.empty(2, 3, *size))
            real = {key: tuple(value.shape) for key, value in features.items()}
            declared = {
                i.name: (2, i.channels, ceil(size[0] / i.stride), ceil(size[1] / i.stride))
                for i in network.feature_info
            }
            assert real == declared
            assert list(features) == [info.name for info in network.feature_info]
    assert [info.stride for info in network.feature_info] == [min(s, output_stride) for s in (2, 4, 8, 16, 32)]


@pytest.mark.parametrize(
    ("name", "channels"),
    [("resnet18", (64, 128, 256, 512)), ("resnet50", (256, 512, 1024, 2048))],  # arXiv:1512.03385, table 1
)
def test_default_features(name: str, channels: tuple[int, ...]) -> None:
    with torch.device("meta"):
        info = vertebra.create_backbone(name).feature_info
    assert [(i.name, i.channels) for i in info] == list(zip(("c2", "c3", "c4", "c5"), channels, strict=True))


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
@pytest.mark.parametrize("output_stride", [8, 16])
def test_dilated_network_computes_the_strided_one_at_more_places(
    name: str, output_stride: int, randomise_statistics: Randomise
) -> None:
    torch.manual_seed(0)
    narrow = replace(vertebra.row(name), widths=(8, 8, 16, 16))
    strided = randomise_statistics(vertebra.create_backbone(narrow)).double().eval()
    dilated = vertebra.create_backbone(narrow, output_stride=output_stride).double().eval()
    dilated.load_state_dict(strided.state_dict())
    images = torch.randn(1, 3, 96, 128, dtype=torch.float64)
    expected, found = strided(images), dilated(images)
    for info in dilated.feature_info:
        step = found[info.name].shape[-1] // expected[info.name].shape[-1]
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
    for name in ("resnet18", "resnet50"):
        network = vertebra.create_backbone(name)
        features = network(torch.randn(2, 3, 64, 64))
        sum(feature.square().mean() for feature in features.values()).backward()
        assert all(p.grad is not None and bool(p.grad.any()) for p in network.parameters()), name
