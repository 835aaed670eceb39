"""What a segmenter or a classifier finds in an image: label PNGs, overlays, and rows of tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..backbones import InputError
from .data.sets import Category
from .draw import draw_legend, draw_semantic, enlarge

AREA_COLUMNS = ("file_name", "class", "pixels", "share")
CLASS_COLUMNS = ("file_name", "rank", "class", "score")

Row = Mapping[str, str | int | float]


def write_label_png(path: Path, labels: Tensor, categories: Sequence[Category]) -> None:
    """Write a map (H, W) of class indices as a greyscale PNG of the categories' ids; 16 bit where an id exceeds 255."""
    from PIL import Image

    ids = [category.id for category in categories]
    if min(ids) < 0 or max(ids) > 65535:
        raise InputError(f"categories have ids from {min(ids)} to {max(ids)}; a label PNG holds 0..65535")
    values = np.array(ids, np.uint8 if max(ids) <= 255 else np.uint16)
    Image.fromarray(values[labels.cpu().numpy()]).save(path)


def overlay(image: Tensor, labels: Tensor, categories: Sequence[Category]) -> Tensor:
    """Return a picture (3, H, W) of an image (3, h, w), uint8, with a map (h, w) of class indices, and a legend."""
    large, _ = enlarge(image)
    legend = draw_legend(large.shape[2], _classes(labels)[0].tolist(), [category.name for category in categories])
    return torch.cat([draw_semantic(large, labels, ignore=-1), legend], dim=1)


def class_areas(file_name: str, labels: Tensor, categories: Sequence[Category]) -> list[Row]:
    """Return the pixels of each class that is in a map (H, W) of class indices, and their share of the image."""
    values, pixels = _classes(labels)
    return [
        {"file_name": file_name, "class": categories[value].name, "pixels": count, "share": count / labels.numel()}
        for value, count in zip(values.tolist(), pixels.tolist(), strict=True)
    ]


def _classes(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the classes in a map and the number of pixels of each."""
    counts = labels.flatten().bincount()
    (classes,) = counts.nonzero(as_tuple=True)
    return classes, counts[classes]


def top_classes(file_name: str, scores: Tensor, categories: Sequence[Category], k: int = 5) -> list[Row]:
    """Return the k classes of the highest scores (K,) in an image, or all if they are fewer, best first."""
    return [
        {"file_name": file_name, "rank": rank, "class": categories[index].name, "score": score}
        for rank, (index, score) in enumerate(ranked(scores, k), start=1)
    ]


def ranked(scores: Tensor, k: int) -> list[tuple[int, float]]:
    """Return the k classes of the highest scores (K,), with these, best first and of equal ones the first."""
    values, classes = scores.sort(descending=True, stable=True)
    return list(zip(classes.tolist(), values.tolist(), strict=True))[:k]
