"""Highway networks (arXiv:1505.00387): layers whose gates decide, for each value, how much is transformed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .contract import FeatureInfo, Preprocessing, Step, Trunk
from .initialisation import kaiming_fan_in
from .norms import Norm, no_norm
from .placement import max_pool, place
from .stage import Stage, conv_norm_relu


class HighwayLayer(nn.Module):
    """y = H(x) T(x) + x (1 - T(x)): H a 3x3 convolution with ReLU, T one with sigmoid; the shape stays.

    The gate's bias begins at `gate_bias`, below zero, so that the layer begins by carrying its input on.
    """

    def __init__(self, channels: int, dilation: int, norm: Norm | None, gate_bias: float) -> None:
        super().__init__()
        self.transform = conv_norm_relu(
            nn.Conv2d(channels, channels, 3, padding=dilation, dilation=dilation, bias=norm is None), norm
        )
        self.gate = nn.Conv2d(channels, channels, 3, padding=dilation, dilation=dilation)
        self.gate_bias = gate_bias

    def forward(self, x: Tensor) -> Tensor:
        carried: Tensor = torch.lerp(x, self.transform(x), torch.sigmoid(self.gate(x)))
        return carried


@dataclass(frozen=True)
class Highway:
    """A Highway network as a row: call it to build the network with all its stages.

    Each stage is a plain convolution, which changes the width, and `depths` highway layers; max-pools between stages.
    """

    depths: tuple[int, ...]
    widths: tuple[int, ...]
    gate_bias: float
    norms: bool = False

    def __call__(self, *, in_channels: int, output_stride: int, norm: Norm) -> Trunk:
        chosen = norm if self.norms else no_norm(norm, "Highway without norm; highway19_bn and highway32_bn have them")
        steps: list[Step] = []
        channels = in_channels
        strides = [1] + [2] * (len(self.depths) - 1)
        stages = zip(self.depths, self.widths, place(strides, 1, output_stride), strict=True)
        for stage, (depth, width, at) in enumerate(stages, start=1):
            if stage > 1:
                steps.append(Step(f"pool{stage - 1}", max_pool(at), stage))
            entry = nn.Conv2d(channels, width, 3, padding=at.dilation, dilation=at.dilation, bias=chosen is None)
            # The first convolution is the stem, for `frozen_stages`.
            steps.append(Step(f"conv{stage}", conv_norm_relu(entry, chosen), stage if stage > 1 else 0))
            layers = Stage([HighwayLayer(width, at.dilation, chosen, self.gate_bias) for _ in range(depth)])
            steps.append(Step(f"layer{stage}", layers, stage, FeatureInfo(f"c{stage + 1}", width, at.reduction)))
            channels = width
        network = Trunk(steps, Preprocessing().for_channels(in_channels))
        kaiming_fan_in(network)
        for module in network.modules():
            if isinstance(module, HighwayLayer):
                assert module.gate.bias is not None
                nn.init.constant_(module.gate.bias, module.gate_bias)
        return network


# Widths, depths and bias of the 19-layer network are those of the authors' Caffe model for CIFAR-10 (the 1x1 and the
# classifier after it make 19). The paper gives the 32-layer network's depth and size alone (1.25 M parameters); the
# widths are the even progression that comes to it.
HIGHWAY = {
    "highway19": Highway((4, 5, 5), (32, 80, 128), gate_bias=-2.0),
    "highway32": Highway((9, 9, 9), (32, 48, 64), gate_bias=-3.0),
    "highway19_bn": Highway((4, 5, 5), (32, 80, 128), gate_bias=-2.0, norms=True),
    "highway32_bn": Highway((9, 9, 9), (32, 48, 64), gate_bias=-3.0, norms=True),
}
