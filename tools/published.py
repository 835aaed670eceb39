"""Public weights of whole models, ready to be measured."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from ..backbones.weights import load_source
from ..heads.records import model_record, open_source
from .build import build_model, import_modules
from .config import compose
from .data.sets import Category
from .finetune import without_unused
from .settings import Config


def published_model(
    name: str, data: str, overrides: Sequence[str], imports: Sequence[str]
) -> tuple[Config, nn.Module, tuple[Category, ...]]:
    """Return the settings, the model in eval mode and the categories of public weights, such as
    `torchvision/maskrcnn_resnet50_fpn`; `data` is the data set that it shall be measured on.

    Labels that no category has are left out of the model.
    """
    record = model_record(name)
    choices = {"head": record.head, "backbone": record.backbone, "data": data}
    config = compose(None, choices, imports, [f"backbone.norm={record.norm}", *overrides])
    import_modules(imports)
    source = without_unused(open_source(name), config.head.model.class_layers)
    assert source.categories is not None
    model = build_model(config, len(source.categories))
    load_source(model, source)
    return config, model.eval(), tuple(Category(id, name) for id, name in source.categories)
