"""Whole models by name: a head's row, and a backbone from the registry under it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Unpack

from ..backbones import Backbone, BackboneOptions, InputError, create_backbone
from ..backbones.errors import unknown
from .faster_rcnn import FASTER_RCNN, Detector, FasterRCNN

HEADS: dict[str, FasterRCNN] = {"faster_rcnn": FASTER_RCNN}


def list_heads() -> list[str]:
    """Return the names that `create_model` takes."""
    return sorted(HEADS)


def head_row(name: str) -> FasterRCNN:
    """Return the row of a head: a frozen dataclass to change with `dataclasses.replace` and give to create_model."""
    if name not in HEADS:
        raise unknown("head", name, HEADS)
    return HEADS[name]


def create_model(
    head: str | FasterRCNN,
    *,
    backbone: str | Callable[..., Backbone] | Backbone,
    num_classes: int,
    **options: Unpack[BackboneOptions],
) -> Detector:
    """Build a model: a head (a name, or a row) on a backbone (a name, a row, or one that is built).

    num_classes counts the background, which is class 0, as torchvision's detectors do. options: those of
    `create_backbone`.
    """
    chosen = head_row(head) if isinstance(head, str) else head
    if num_classes < 2:
        raise InputError(f"num_classes={num_classes}; it counts the background, so it is at least 2")
    if isinstance(backbone, Backbone):
        if options:
            raise InputError(
                f"{', '.join(options)}: the backbone is built already; give its options to create_backbone"
            )
        return chosen(backbone, num_classes)
    return chosen(create_backbone(backbone, **options), num_classes)
