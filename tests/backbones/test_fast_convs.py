"""Fast convolutions have the values, gradients, keys and parameters of those that they stand for."""

import itertools
from copy import deepcopy

import pytest
import torch
from torch import nn

from vertebra.backbones import create_backbone, fast_convs
from vertebra.backbones.fast_convs import PointwiseConv2d, TapsConv2d, WinogradConv2d, fast_conv, use_fast_convs_

KINDS = {(1, 1, 1): PointwiseConv2d, (3, 1, 1): WinogradConv2d, (3, 1, 4): WinogradConv2d, (3, 1, 12): TapsConv2d}


@pytest.fixture
def few_channels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast_convs, "LEAST_CHANNELS", 1)


def history(x: torch.Tensor) -> list[str]:
    """Return the names of what made a tensor, last first, along the first input of each."""
    names, node = [], x.grad_fn
    while node is not None:
        names.append(node.name())
        node = node.next_functions[0][0] if node.next_functions else None
    return names


@pytest.mark.usefixtures("few_channels")
@pytest.mark.parametrize(("kernel", "stride", "dilation"), [*itertools.product((1, 3, 5), (1, 2, 3), (1, 2, 4, 12))])
def test_values_and_gradients(kernel: int, stride: int, dilation: int) -> None:
    """On maps smaller and larger than the reach of the taps, in both layouts."""
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 4, kernel, stride, padding=dilation * (kernel // 2), dilation=dilation).double()
    fast = fast_conv(deepcopy(conv))
    assert type(fast) is KINDS.get((kernel, stride, dilation), type(fast)) is not nn.Conv2d
    for size, layout in (((1, 9), torch.contiguous_format), ((16, 14), torch.channels_last)):
        x = torch.randn(2, 3, *size, dtype=torch.float64).contiguous(memory_format=layout).requires_grad_()
        wanted, found = conv(x).relu_(), fast(x).relu_()  # in place, as networks do
        assert not any("Convolution" in name for name in history(found))
        upstream = torch.randn_like(wanted)
        expected = torch.autograd.grad(wanted, (x, *conv.parameters()), upstream)
        given = torch.autograd.grad(found, (x, *fast.parameters()), upstream)
        for one, other in zip((found, *given), (wanted, *expected), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)
        with torch.no_grad():
            torch.testing.assert_close(fast(x), conv(x), rtol=1e-10, atol=1e-10)


@pytest.mark.usefixtures("few_channels")
@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(4, 4, 3, padding=1, groups=2),
        nn.Conv2d(4, 4, 3),  # without padding
        nn.Conv2d(4, 4, 2, padding=1),
        nn.Conv2d(4, 4, 3, padding="same"),
        nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"),
    ],
)
def test_others_stay(conv: nn.Conv2d) -> None:
    assert fast_conv(conv) is conv


def test_a_network_keeps_its_keys_and_parameters() -> None:
    """And gives the same features, to rounding; stems and grouped convolutions stay as they are."""
    network = create_backbone("resnet18").eval().double()
    with torch.no_grad():
        x = torch.randn(1, 3, 64, 96, dtype=torch.float64)
        wanted = network(x)
        parameters, keys = list(network.parameters()), list(network.state_dict())
        use_fast_convs_(network)
        assert all(a is b for a, b in zip(network.parameters(), parameters, strict=True))
        assert list(network.state_dict()) == keys
        assert type(network.conv1) is nn.Conv2d
        assert sum(isinstance(module, WinogradConv2d) for module in network.modules()) == 13  # 16 3x3, 3 with stride
        for name, value in network(x).items():
            torch.testing.assert_close(value, wanted[name], rtol=1e-10, atol=1e-10)


def test_under_autocast_they_are_what_they_were() -> None:
    conv = nn.Conv2d(64, 64, 3, padding=1)
    x = torch.randn(1, 64, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(fast_conv(deepcopy(conv))(x), conv(x), rtol=0, atol=0)
