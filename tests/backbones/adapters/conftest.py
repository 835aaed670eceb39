"""One small backbone of each family, registered after the adapters may have been imported, as a user's own are.

Tests that take the argument `family` run for each of them.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
from torch import nn

import vertebra
from vertebra.backbones import VGG, registry


class Own(vertebra.Backbone):
    """Somebody's own network, with strides 4 to 32 and nothing at 2, and no options but what it must have."""

    def __init__(self, *, in_channels: int, norm: Callable[[int], nn.Module]) -> None:
        widths = (16, 24, 32, 48)
        super().__init__(vertebra.FeatureInfo(f"c{i + 2}", width, 4 * 2**i) for i, width in enumerate(widths))
        self.stem = self.down(in_channels, 16, norm)
        self.levels = nn.ModuleList(self.down(i, o, norm) for i, o in zip((16, *widths), widths, strict=False))

    @staticmethod
    def down(in_channels: int, out_channels: int, norm: Callable[[int], nn.Module]) -> nn.Module:
        conv = nn.Conv2d(in_channels, out_channels, 3, 2, 1, bias=False)
        return nn.Sequential(conv, norm(out_channels), nn.ReLU())

    def forward_features(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        x, features = self.stem(images), {}
        for name, level in zip(("c2", "c3", "c4", "c5"), self.levels, strict=True):
            x = features[name] = level(x)
        return features

    def stages(self) -> tuple[tuple[nn.Module, ...], ...]:
        return (self.stem,), *((level,) for level in self.levels)


_WIDTHS = {"widths": (16, 16, 32, 32)}
FAMILIES = {
    **{
        f"small_{name}": replace(vertebra.row(name), depths=(1, 1, 1, 1), **_WIDTHS)
        for name in (
            "resnet18", "resnet50", "resnet50d", "resnetv2_50", "resnext50_32x4d", "wide_resnet50_2", "plain18",
        )
    },
    "small_resnet20": replace(vertebra.row("resnet20"), depths=(1, 1, 1), widths=(16, 16, 32)),
    "small_wrn16_8": replace(vertebra.row("wrn16_8"), depths=(1, 1, 1), widths=(16, 16, 32)),
    "small_densenet121": replace(vertebra.row("densenet121"), depths=(2, 2, 2, 2), growth=8),
    "small_vgg16_bn": VGG((1, 1, 1, 1, 1), norms=True),
    "highway19_bn": vertebra.row("highway19_bn"),
    "small_own": Own,
}  # fmt: skip


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "family" in metafunc.fixturenames:
        metafunc.parametrize("family", FAMILIES)


@pytest.fixture(autouse=True)
def _the_same_numbers() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True, scope="module")
def _families() -> Iterator[None]:
    for name, row in FAMILIES.items():
        if name not in registry._REGISTRY:
            vertebra.register_backbone(name)(row)
    yield
    for name in FAMILIES:
        if name.startswith("small_"):
            del registry._REGISTRY[name]
