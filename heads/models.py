"""Whole models by name: a head's row, and a backbone from the registry under it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Protocol, Unpack

from torch import nn

from ..backbones import Backbone, BackboneOptions, InputError, LoadReport, create_backbone
from ..backbones.errors import unknown
from ..backbones.weights import load_source
from .classifier import CLASSIFIER
from .deeplab import DEEPLAB
from .rcnn import RCNN
from .records import open_source


class Head(Protocol):
    """What a row is: a frozen dataclass of settings that builds a model on a backbone.

    With an attribute `backbone_options` it says which options a backbone under it is created with where the caller says
    nothing of them, as the stride of DeepLab's.
    """

    model: ClassVar[type[nn.Module]]

    def __call__(self, backbone: Backbone, num_classes: int) -> nn.Module: ...


HEADS: Mapping[str, Head] = {**RCNN, **DEEPLAB, **CLASSIFIER}


def list_heads() -> list[str]:
    """Return the names that `create_model` takes."""
    return sorted(HEADS)


def head_row(name: str) -> Any:
    """Return the row of a head: a frozen dataclass to change with `dataclasses.replace` and give to create_model."""
    if name not in HEADS:
        raise unknown("head", name, HEADS)
    return HEADS[name]


def create_model(
    head: str | Head,
    *,
    backbone: str | Callable[..., Backbone] | Backbone,
    num_classes: int,
    **options: Unpack[BackboneOptions],
) -> nn.Module:
    """Build a model: a head (a name, or a row) on a backbone (a name, a row, or one that is built).

    num_classes counts the background, which is class 0, as torchvision's models do; a segmenter's or a classifier's
    classes have one only where the data do. options: those of `create_backbone`; the head has a default for some of
    them (`backbone_options`).
    """
    chosen: Head = head_row(head) if isinstance(head, str) else head
    if num_classes <= getattr(chosen.model, "first_label", 0):
        raise InputError(f"num_classes={num_classes}; it counts the background, so it is at least 2")
    if isinstance(backbone, Backbone):
        if options:
            raise InputError(
                f"{', '.join(options)}: the backbone is built already; give its options to create_backbone"
            )
        return chosen(backbone, num_classes)
    of_head: BackboneOptions = getattr(chosen, "backbone_options", BackboneOptions())
    merged: BackboneOptions = {**of_head, **options}
    return chosen(create_backbone(backbone, **merged), num_classes)


def load_weights(
    model: nn.Module, source: str | os.PathLike[str] | Mapping[str, Any], *, reset_classes: bool = False
) -> LoadReport:
    """Load weights into a model or a backbone, strictly, and report what was done.

    source: a state dict, a file (.pt, .pth, .safetensors), a run folder, or the name of a public model such as
    `torchvision/fasterrcnn_resnet50_fpn` (`vertebra.heads.model_names()` lists them), which is fetched once. The source
    is of the same model, or of the backbone in it alone; `vertebra.backbones.load_weights` says what else fits.

    reset_classes: for fine-tuning on other classes. The weights of the same model but for the classes are loaded; the
    layers that depend on them (the model's `class_layers`) keep their values, in a new model their initialisation.
    """
    return load_source(model, open_source(source), reset_classes=reset_classes)
