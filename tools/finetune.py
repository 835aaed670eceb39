"""Starting a run from weights: of a backbone, or of a whole model, whose class layers may be of other classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import nn

from ..backbones import load_named
from ..backbones.weights import Source, class_layers, is_path, load_source
from ..heads.records import UNUSED, open_source
from .data.sets import Category
from .settings import Config


def start_from(model: nn.Module, weights: str, config: Config, categories: Sequence[Category]) -> str:
    """Load weights into a new model for data of these categories, and return what was done, in one line.

    weights: `imagenet` or a tag of the backbone's, a file, a run, or the name of a public model. Of a whole model all
    is loaded where its categories are the data's, by name and id. Otherwise the layers that depend on the classes keep
    their initialisation; where the source names no categories, only if their shapes do not fit.
    """
    if not is_path(weights):
        return f"{load_named(model, config.choices.backbone, weights)}, from {weights}"
    source = open_source(weights)
    ours = tuple((category.id, category.name) for category in categories)
    if source.categories not in (None, ours):
        source = without_unused(source, class_layers(model))
    reason = _other_classes(model, source, ours)
    report = load_source(model, source, reset_classes=reason is not None)
    line = f"{report.counts()}, from {weights}"
    if reason is not None:
        line += f"; re-initialised for {len(ours)} classes ({reason}): {', '.join(report.reset_layers)}"
    elif source.categories is None and _of_classes(source, class_layers(model)):
        line += "; kept its class layers, which fit (it names no categories to compare)"
    if source.norm not in (None, config.backbone.norm):
        line += f"; trained with backbone.norm={source.norm}, the model has {config.backbone.norm}"
    return line


def _other_classes(model: nn.Module, source: Source, ours: tuple[tuple[int, str], ...]) -> str | None:
    """Return why the class layers of the source are not for our categories; None where they are, or it has none."""
    of_classes = _of_classes(source, class_layers(model))
    if not of_classes:
        return None
    if source.categories is not None:
        return None if source.categories == ours else "the weights have other categories"
    shapes = {key: value.shape for key, value in model.state_dict().items()}
    if all(source.state[key].shape == shapes.get(key) for key in of_classes):
        return None
    return "the weights have another number of them"


def _of_classes(source: Source, layers: tuple[str, ...]) -> list[str]:
    return [key for key in source.state if key.startswith(layers)]


def without_unused(source: Source, layers: tuple[str, ...]) -> Source:
    """Return the source without the rows of labels that no category has, in tensors with a row or more for each label.

    So that torchvision's weights for the ids of COCO, 1 to 90, fit the labels of our data, 1 to 80.
    """
    assert source.categories is not None
    used = [label for label, (_, name) in enumerate(source.categories, 1) if name != UNUSED]
    labels = len(source.categories) + 1
    if len(used) == labels - 1:
        return source
    state = {
        key: value.reshape(labels, -1, *value.shape[1:])[[0, *used]].flatten(0, 1) if key.startswith(layers) else value
        for key, value in source.state.items()
    }
    return replace(source, state=state, categories=tuple(source.categories[label - 1] for label in used))
