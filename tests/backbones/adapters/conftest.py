"""One small backbone of each family, registered after the adapters may have been imported, as a user's own are.

Tests that take the argument `family` run for each of them.
"""

from collections.abc import Iterator
from dataclasses import replace

import pytest

import vertebra
from vertebra.backbones import VGG, registry

_WIDTHS = {"widths": (16, 16, 32, 32)}
_CIFAR_WIDTHS = {"widths": (16, 16, 32)}
FAMILIES = {
    **{
        f"small_{name}": replace(vertebra.row(name), depths=(1, 1, 1, 1), **_WIDTHS)
        for name in (
            "resnet18", "resnet50", "resnet50d", "resnetv2_50", "resnext50_32x4d", "wide_resnet50_2", "plain18",
        )
    },
    **{
        f"small_{name}": replace(vertebra.row(name), depths=(1, 1, 1), **_CIFAR_WIDTHS) for name in ("resnet20", "wrn16_8")
    },
    "small_densenet121": replace(vertebra.row("densenet121"), depths=(2, 2, 2, 2), growth=8),
    "small_vgg16_bn": VGG((1, 1, 1, 1, 1), norms=True),
    "highway19_bn": vertebra.row("highway19_bn"),
}  # fmt: skip


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "family" in metafunc.fixturenames:
        metafunc.parametrize("family", FAMILIES)


@pytest.fixture(autouse=True, scope="session")
def _families() -> Iterator[None]:
    for name, row in FAMILIES.items():
        if name not in registry._REGISTRY:
            vertebra.register_backbone(name)(row)
    yield
    for name in FAMILIES:
        if name.startswith("small_"):
            del registry._REGISTRY[name]
