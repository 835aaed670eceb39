"""Files of what a segmenter or a classifier finds in images: label PNGs, overlays, and tables as CSV."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..backbones import InputError
from .data.sets import Category
from .draw import draw_legend, draw_semantic, enlarge, write_picture

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


def write_prediction(
    folder: Path, name: str, image: Tensor, labels: Tensor, categories: Sequence[Category], file_name: str
) -> list[Row]:
    """Write a map's `name.png` of ids and `name.jpg`, its overlay with a legend; return rows of AREA_COLUMNS.

    image: (3, H, W), uint8. labels: (H, W), class indices. name: without a suffix. file_name: of the image, for rows.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_label_png(folder / f"{name}.png", labels, categories)
    write_picture(folder / f"{name}.jpg", overlay(image, labels, categories))
    return class_areas(file_name, labels, categories)


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
    best, classes = scores.sort(descending=True, stable=True)
    pairs = list(zip(classes.tolist(), best.tolist(), strict=True))[:k]
    return [
        {"file_name": file_name, "rank": rank, "class": categories[index].name, "score": score}
        for rank, (index, score) in enumerate(pairs, start=1)
    ]


def write_rows(path: Path, columns: Sequence[str], rows: Sequence[Row]) -> None:
    """Write a table as CSV in UTF-8, with a line of titles."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
