"""Backbones, their registry, and the feature pyramids on top of them."""

if __name__ == "backbones":
    # A checkout on sys.path would make a second, separate registry under this name.
    raise ImportError("import vertebra.backbones, not backbones: the registry must exist only once")

from collections.abc import Callable, Mapping
from functools import partial

from .blocks import Convs
from .contract import Backbone, FeatureInfo, Preprocessing, Step, Trunk
from .densenet import DENSENET, DenseNet
from .errors import InputError
from .highway import HIGHWAY, Highway
from .pyramid import FPN, Pyramid, create_pyramid
from .records import WeightsRecord, public_records
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
from .residual import RESIDUAL, Residual
from .vgg import VGG, VGG_NETWORKS
from .weights import LoadReport, load_weights

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
    "register_backbone",
    "row",
    "weights_records",
]

_TABLES: tuple[Mapping[str, Callable[..., Backbone]], ...] = (RESIDUAL, DENSENET, HIGHWAY, VGG_NETWORKS)
for _table in _TABLES:
    for _name, _row in _table.items():
        register_backbone(_name, weights=partial(public_records, _name))(_row)
