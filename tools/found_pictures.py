"""An image with what a model found in it drawn on it, whatever it finds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .data.sets import Category
from .draw import draw_boxes, draw_caption, draw_masks, enlarge
from .predictions import overlay

Found = Mapping[str, Any]


def detections_picture(image: Tensor, found: Found, categories: Sequence[Category]) -> Tensor:
    """Return a picture (3, H, W) of an image (C, h, w) with boxes, names, scores, and masks where there are."""
    labels = found["labels"].tolist()
    names = [categories[label - 1].name for label in labels]
    texts = [f"{name} {score:.2f}" for name, score in zip(names, found["scores"].tolist(), strict=True)]
    large, scale = enlarge(image)
    return draw_boxes(draw_masks(large, found.get("masks", []), labels), found["boxes"] * scale, labels, texts)


def semantic_picture(image: Tensor, found: Found, categories: Sequence[Category]) -> Tensor:
    """Return a picture (3, H, W) of an image (C, h, w) with the class of each pixel, and a legend."""
    return overlay(image, found["semantic"], categories)


def class_picture(image: Tensor, found: Found, categories: Sequence[Category]) -> Tensor:
    """Return a picture (3, H, W) of an image (C, h, w) below the name and the score of its class."""
    large, _ = enlarge(image)
    label = int(found["label"])
    caption = draw_caption(large.shape[2], f"{categories[label].name} {float(found['scores'][label]):.2f}")
    return torch.cat([caption, large], dim=1)


# By the first of a model's target keys.
PICTURES: dict[str, Callable[[Tensor, Found, Sequence[Category]], Tensor]] = {
    "boxes": detections_picture,
    "semantic": semantic_picture,
    "label": class_picture,
}
