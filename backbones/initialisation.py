"""How weights begin: functions that fill a network's parameters."""

from __future__ import annotations

from torch import nn


def kaiming_fan_out(network: nn.Module) -> None:
    """He initialisation by fan-out (torchvision's for ResNet and VGG): variance 2 / (kernel area * output channels)."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def kaiming_fan_in(network: nn.Module) -> None:
    """He initialisation by fan-in (arXiv:1502.01852; torchvision's for DenseNet): variance 2 / (area * inputs)."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def kaiming_zero_last(network: nn.Module) -> None:
    """As `kaiming_fan_out`, and each residual branch begins as zero: the scale of its last norm (arXiv:1706.02677)."""
    kaiming_fan_out(network)
    for module in network.modules():
        scale = getattr(getattr(module, "last_norm", None), "weight", None)
        if isinstance(scale, nn.Parameter):
            nn.init.zeros_(scale)
