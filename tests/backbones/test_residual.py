"""The values of a residual row: initialisation and stochastic depth."""

import math

import pytest
import torch
import torchvision
from torch import nn

import vertebra


def test_initialisation_has_he_variance_by_fan_out() -> None:
    """Var = 2 / (k * k * out_channels), arXiv:1502.01852 section 2.2, as torchvision takes it."""
    torch.manual_seed(0)
    network = vertebra.create_backbone("resnet50")
    convs = [m for m in network.modules() if isinstance(m, nn.Conv2d) and m.weight.numel() > 50_000]
    assert len(convs) > 20
    for conv in convs:
        expected = math.sqrt(2 / (conv.kernel_size[0] ** 2 * conv.out_channels))
        assert float(conv.weight.std()) == pytest.approx(expected, rel=0.02)
        assert abs(float(conv.weight.mean())) < 0.02 * expected


def test_drop_path_grows_linearly_to_the_last_block() -> None:
    """Survival of block l of L is 1 - l / L * drop (arXiv:1603.09382, equation 4)."""
    network = vertebra.create_backbone("resnet18", drop_path=0.4)
    drops = [m.p for m in network.modules() if isinstance(m, torchvision.ops.StochasticDepth)]
    assert drops == pytest.approx([0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4])


def test_drop_path_acts_in_training_only() -> None:
    torch.manual_seed(0)
    dropped = vertebra.create_backbone("resnet18", drop_path=0.9)
    plain = vertebra.create_backbone("resnet18", weights=dropped.state_dict())
    images = torch.randn(2, 3, 64, 64)
    assert torch.equal(dropped.eval()(images)["c5"], plain.eval()(images)["c5"])
    assert not torch.equal(dropped.train()(images)["c5"], plain.train()(images)["c5"])
