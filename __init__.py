"""vertebra: detection and segmentation backbones for PyTorch, with the heads and tools to train them.

Importing this package loads nothing else: each public name is imported from its module when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .backbones import (
        Backbone,
        FeatureInfo,
        InputError,
        Preprocessing,
        WeightsRecord,
        create_backbone,
        create_pyramid,
        list_backbones,
        optimize,
        register_backbone,
        row,
        weights_records,
    )
    from .heads import create_model, head_row, list_heads, load_weights
    from .tools.evaluation.classification import ClassificationEvaluator
    from .tools.evaluation.coco import CocoEvaluator
    from .tools.evaluation.semantic import SemanticEvaluator
    from .tools.memory import keep_freed_memory
    from .tools.predictor import Predictor

__version__ = "0.1.0"

_HOME = {
    "Backbone": ".backbones",
    "FeatureInfo": ".backbones",
    "InputError": ".backbones",
    "Preprocessing": ".backbones",
    "WeightsRecord": ".backbones",
    "create_backbone": ".backbones",
    "create_pyramid": ".backbones",
    "list_backbones": ".backbones",
    "optimize": ".backbones",
    "register_backbone": ".backbones",
    "row": ".backbones",
    "weights_records": ".backbones",
    "create_model": ".heads",
    "head_row": ".heads",
    "list_heads": ".heads",
    "load_weights": ".heads",
    "ClassificationEvaluator": ".tools.evaluation.classification",
    "CocoEvaluator": ".tools.evaluation.coco",
    "SemanticEvaluator": ".tools.evaluation.semantic",
    "Predictor": ".tools.predictor",
    "keep_freed_memory": ".tools.memory",
}

__all__ = [
    "Backbone",
    "ClassificationEvaluator",
    "CocoEvaluator",
    "FeatureInfo",
    "InputError",
    "Predictor",
    "Preprocessing",
    "SemanticEvaluator",
    "WeightsRecord",
    "__version__",
    "create_backbone",
    "create_model",
    "create_pyramid",
    "head_row",
    "keep_freed_memory",
    "list_backbones",
    "list_heads",
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
