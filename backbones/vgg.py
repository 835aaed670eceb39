"""VGG (arXiv:1409.1556): 3x3 convolutions and 2x2 max-pools, with and without norm."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from .contract import FeatureInfo, Preprocessing, Step, Trunk
from .initialisation import kaiming_fan_out
from .norms import Norm, no_norm
from .placement import max_pool, place
from .stage import Stage, conv_norm_relu

WIDTHS = (64, 128, 256, 512, 512)


@dataclass(frozen=True)
class VGG:
    """A VGG network as a row: call it to build the convolutional part.

    `depths` counts the convolutions of each block. Features are the maps before each pool (`c1` to `c5`, at strides 1
    to 16) and after the last (`c6`, at stride 32).
    """

    depths: tuple[int, ...]
    norms: bool

    @property
    def default_features(self) -> tuple[str, ...]:
        """The maps at strides 4 to 32."""
        return ("c3", "c4", "c5", "c6")

    def __call__(self, *, in_channels: int, output_stride: int, norm: Norm) -> Trunk:
        chosen = norm if self.norms else no_norm(norm, "VGG without norm; vgg16_bn and vgg19_bn have them")
        # The pools before blocks 2 to 5, and the last one; the first block has no pool before it.
        places = [*place([1] + [2] * 5, 1, output_stride)]
        steps: list[Step] = []
        renames = []
        index = 0  # of torchvision's and timm's flat `features`
        channels = in_channels
        for block, (depth, width, at) in enumerate(zip(self.depths, WIDTHS, places, strict=False)):
            if block > 0:
                steps.append(Step(f"pool{block}", max_pool(at), block))
                index += 1
            layers = []
            for i in range(depth):
                conv = nn.Conv2d(channels, width, 3, padding=at.dilation, dilation=at.dilation)
                layers.append(conv_norm_relu(conv, chosen))
                for j in range(len(layers[-1])):
                    renames.append((rf"^features\.{index + j}\.", f"block{block + 1}.{i}.{j}."))
                index += len(layers[-1])
                channels = width
            feature = FeatureInfo(f"c{block + 1}", channels, at.reduction)
            steps.append(Step(f"block{block + 1}", Stage(layers), block, feature))
        last = FeatureInfo("c6", channels, places[-1].reduction)
        steps.append(Step("pool5", max_pool(places[-1]), 5, last))
        network = Trunk(
            steps,
            Preprocessing().for_channels(in_channels),
            droppable_keys=("classifier.", "pre_logits.", "head."),
            renames=tuple(renames),
        )
        kaiming_fan_out(network)
        return network


VGG_NETWORKS = {
    "vgg16": VGG((2, 2, 3, 3, 3), norms=False),
    "vgg16_bn": VGG((2, 2, 3, 3, 3), norms=True),
    "vgg19": VGG((2, 2, 4, 4, 4), norms=False),
    "vgg19_bn": VGG((2, 2, 4, 4, 4), norms=True),
}
