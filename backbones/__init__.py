"""Backbones, their registry, and the feature pyramids on top of them.

Importing this package loads nothing else: each public name is imported from its module when it is first used. So errors
and names are at hand without torch.
"""

if __name__ == "backbones":
    # A checkout on sys.path would make a second, separate registry under this name.
    raise ImportError("import vertebra.backbones, not backbones: the registry must exist only once")

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .blocks import Convs
    from .contract import Backbone, FeatureInfo, Preprocessing, Step, Trunk
    from .densenet import DenseNet
    from .errors import InputError
    from .highway import Highway
    from .optimise import optimize
    from .pyramid import FPN, Pyramid, create_pyramid
    from .records import WeightsRecord
    from .registry import (
        BackboneOptions,
        Builder,
        create_backbone,
        list_backbones,
        load_named,
        register_backbone,
        row,
        weights_records,
    )
    from .residual import Residual
    from .vgg import VGG
    from .weights import LoadReport, load_weights

_HOME = {
    "FPN": ".pyramid",
    "VGG": ".vgg",
    "Backbone": ".contract",
    "BackboneOptions": ".registry",
    "Builder": ".registry",
    "Convs": ".blocks",
    "DenseNet": ".densenet",
    "FeatureInfo": ".contract",
    "Highway": ".highway",
    "InputError": ".errors",
    "LoadReport": ".weights",
    "Preprocessing": ".contract",
    "Pyramid": ".pyramid",
    "Residual": ".residual",
    "Step": ".contract",
    "Trunk": ".contract",
    "WeightsRecord": ".records",
    "create_backbone": ".registry",
    "create_pyramid": ".pyramid",
    "list_backbones": ".registry",
    "load_named": ".registry",
    "load_weights": ".weights",
    "optimize": ".optimise",
    "register_backbone": ".registry",
    "row": ".registry",
    "weights_records": ".registry",
}

__all__ = [
    "FPN",
    "VGG",
    "Backbone",
    "BackboneOptions",
    "Builder",
    "Convs",
    "DenseNet",
    "FeatureInfo",
    "Highway",
    "InputError",
    "LoadReport",
    "Preprocessing",
    "Pyramid",
    "Residual",
    "Step",
    "Trunk",
    "WeightsRecord",
    "create_backbone",
    "create_pyramid",
    "list_backbones",
    "load_named",
    "load_weights",
    "optimize",
    "register_backbone",
    "row",
    "weights_records",
]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name], __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
