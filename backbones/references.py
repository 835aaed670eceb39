"""What each network should be: parameter counts and multiply-adds as published, with the classifier that goes with it.

Counts are of trainable parameters, classifier included: those that the papers print are rounded, so these are of the
authors' code or torchvision's, timm's and the papers' layer tables added up. Multiply-adds are the papers' own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from .contract import FeatureInfo


def linear(features: Sequence[FeatureInfo], classes: int) -> int:
    """Parameters of a linear classifier with bias on the pooled last feature."""
    return (features[-1].channels + 1) * classes


def vgg_layers(features: Sequence[FeatureInfo], classes: int) -> int:
    """Parameters of VGG's three fully connected layers on its last feature at 7x7."""
    widths = (features[-1].channels * 7 * 7, 4096, 4096, classes)
    return sum((i + 1) * o for i, o in pairwise(widths))


CLASSIFIERS = {"linear": linear, "vgg": vgg_layers}


@dataclass(frozen=True)
class Reference:
    """A published network: parameters with its classifier, classes, side of its images, multiply-adds in billions."""

    parameters: int | None
    source: str
    classes: int = 1000
    size: int = 224
    multiply_adds: float | None = None
    classifier: str = "linear"


def _imagenet(source: str, counts: dict[str, int], classifier: str = "linear") -> dict[str, Reference]:
    return {name: Reference(count, source, classifier=classifier) for name, count in counts.items()}


def _cifar(source: str, counts: dict[str, int]) -> dict[str, Reference]:
    return {name: Reference(count, source, classes=10, size=32) for name, count in counts.items()}


REFERENCES: dict[str, Reference] = {
    **_imagenet(
        "torchvision",
        {
            "resnet18": 11_689_512,
            "resnet34": 21_797_672,
            "resnet50": 25_557_032,
            "resnet101": 44_549_160,
            "resnet152": 60_192_808,
            "resnext50_32x4d": 25_028_904,
            "resnext101_32x8d": 88_791_336,
            "resnext101_64x4d": 83_455_272,
            "wide_resnet50_2": 68_883_240,
            "wide_resnet101_2": 126_886_696,
            "densenet121": 7_978_856,
            "densenet161": 28_681_000,
            "densenet169": 14_149_480,
            "densenet201": 20_013_928,
        },
    ),
    **_imagenet(
        "torchvision",
        {"vgg16": 138_357_544, "vgg16_bn": 138_365_992, "vgg19": 143_667_240, "vgg19_bn": 143_678_248},
        classifier="vgg",
    ),
    **_imagenet(
        "timm",
        {
            "resnet18d": 11_708_744,
            "resnet34d": 21_816_904,
            "resnet50d": 25_576_264,
            "resnet101d": 44_568_392,
            "resnet152d": 60_212_040,
            "resnetv2_50": 25_549_352,
            "resnetv2_101": 44_541_480,
            "resnetv2_152": 60_185_128,
            "resnext101_32x4d": 44_177_704,
        },
    ),
    **_imagenet(
        "arXiv:1603.05027, layers added up",
        {"resnetv2_200": 64_666_152},
    ),
    **_imagenet("arXiv:1611.05431, layers added up", {"resnext152_32x4d": 59_951_400}),
    **_imagenet("arXiv:1608.06993, layers added up", {"densenet264": 33_337_704}),
    **_imagenet("DeepLab's R103, layers added up", {"resnet103": 44_672_936}),
    **_imagenet(
        "arXiv:1512.03385, layers added up",
        {"resnet50_caffe": 25_557_032, "resnet101_caffe": 44_549_160, "resnet152_caffe": 60_192_808},
    ),
    "plain34": Reference(None, "arXiv:1512.03385, figure 3", multiply_adds=3.6),
    "resnet34_a": Reference(None, "arXiv:1512.03385, figure 3", multiply_adds=3.6),
    **_cifar(
        "arXiv:1512.03385, layers added up",
        {
            "resnet20": 269_722,
            "resnet32": 464_154,
            "resnet44": 658_586,
            "resnet56": 853_018,
            "resnet110": 1_727_962,
            "resnet1202": 19_421_274,
        },
    ),
    **_cifar(
        "arXiv:1603.05027, layers added up",
        {"resnetv2_110": 1_727_962, "resnetv2_164": 1_703_258, "resnetv2_1001": 10_327_706},
    ),
    **_cifar("arXiv:1611.05431, layers added up", {"resnext29_8x64d": 34_426_698, "resnext29_16x64d": 68_155_210}),
    **_cifar(
        "arXiv:1605.07146, layers added up",
        {
            "wrn16_8": 10_961_370,
            "wrn22_8": 17_158_106,
            "wrn28_10": 36_479_194,
            "wrn28_12": 52_517_850,
            "wrn40_1": 563_930,
            "wrn40_2": 2_243_546,
            "wrn40_4": 8_949_210,
        },
    ),
    **_cifar(
        "arXiv:1608.06993, layers added up",
        {
            "densenet40_k12": 1_019_722,
            "densenet100_k12": 6_979_642,
            "densenet100_k24": 27_249_082,
            "densenet_bc100_k12": 769_162,
            "densenet_bc190_k40": 25_624_430,
            "densenet_bc250_k24": 15_324_406,
        },
    ),
}

# Whose images a network without a published count is made for.
_CIFAR_NAMES = ("resnet110_sd", "resnet1202_sd", "plain20", "plain56", "wrn", "highway")
UNPUBLISHED_IMAGENET = Reference(None, "")
UNPUBLISHED_CIFAR = Reference(None, "", classes=10, size=32)


def reference(name: str) -> Reference:
    """Return what is published of a network; where nothing is, the classes and the image size that it is made for."""
    if name in REFERENCES:
        return REFERENCES[name]
    return UNPUBLISHED_CIFAR if name.startswith(_CIFAR_NAMES) else UNPUBLISHED_IMAGENET
