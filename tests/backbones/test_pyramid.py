"""The feature pyramid, against torchvision's with the same weights."""

from collections import OrderedDict
from math import ceil

import pytest
import torch
from torch import nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

import vertebra


@pytest.mark.parametrize("norm", [None, "batch"])
def test_levels_equal_torchvision(norm: str | None) -> None:
    torch.manual_seed(0)
    pyramid = vertebra.create_pyramid("resnet18", out_channels=32, fpn_norm=norm).double().eval()
    channels = [info.channels for info in pyramid.body.feature_info]
    reference = FeaturePyramidNetwork(channels, 32, LastLevelMaxPool(), nn.BatchNorm2d if norm else None)
    reference.double().eval().load_state_dict(pyramid.fpn.state_dict())
    images = torch.randn(2, 3, 75, 110, dtype=torch.float64)
    expected = reference(OrderedDict(pyramid.body(images)))
    found = pyramid(images)
    assert list(found) == ["p2", "p3", "p4", "p5", "p6"]
    for ours, theirs in zip(found.values(), expected.values(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)


@pytest.mark.parametrize("output_stride", [8, 16, 32])
@pytest.mark.parametrize("extra", ["pool", "none"])
def test_declared_levels_are_the_real_ones(output_stride: int, extra: str) -> None:
    with torch.device("meta"):
        pyramid = vertebra.create_pyramid("resnet18", out_channels=16, extra=extra, output_stride=output_stride)
        for height, width in ((64, 64), (97, 131)):
            levels = pyramid(torch.empty(1, 3, height, width))
            declared = {i.name: (1, 16, ceil(height / i.stride), ceil(width / i.stride)) for i in pyramid.feature_info}
            assert {name: tuple(level.shape) for name, level in levels.items()} == declared
    assert pyramid.out_channels == 16
    assert ("p6" in levels) is (extra == "pool")


def test_a_pyramid_on_some_features() -> None:
    pyramid = vertebra.create_pyramid("resnet18", out_features=("c3", "c4"), extra="pool")
    assert [(info.name, info.stride) for info in pyramid.feature_info] == [("p3", 8), ("p4", 16), ("p5", 32)]


def test_frozen_stages_of_the_body_survive_the_pyramid() -> None:
    pyramid = vertebra.create_pyramid("resnet18", frozen_stages=2).train()
    assert not pyramid.body.bn1.training
    assert not pyramid.body.layer1[0].bn1.training
    assert pyramid.body.layer2[0].bn1.training


def test_unknown_extra_level() -> None:
    with pytest.raises(vertebra.InputError, match=r"unknown extra level 'p6p7'\. Known: none, pool"):
        vertebra.create_pyramid("resnet18", extra="p6p7")
