"""Backbones, their registry, and the feature pyramids on top of them."""

if __name__ == "backbones":
    # A checkout on sys.path would make a second, separate registry under this name.
    raise ImportError("import vertebra.backbones, not backbones: the registry must exist only once")

from .contract import Backbone, FeatureInfo, Preprocessing, Step, Trunk
from .errors import InputError
from .pyramid import FPN, Pyramid, create_pyramid
from .registry import BackboneOptions, Builder, create_backbone, list_backbones, register_backbone, row
from .residual import RESIDUAL, Residual
from .weights import LoadReport, load_weights

__all__ = [
    "FPN",
    "RESIDUAL",
    "Backbone",
    "BackboneOptions",
    "Builder",
    "FeatureInfo",
    "InputError",
    "LoadReport",
    "Preprocessing",
    "Pyramid",
    "Residual",
    "Step",
    "Trunk",
    "create_backbone",
    "create_pyramid",
    "list_backbones",
    "load_weights",
    "register_backbone",
    "row",
]

for _name, _row in RESIDUAL.items():
    register_backbone(_name)(_row)
