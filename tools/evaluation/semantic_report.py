"""What an evaluation of semantic segmentation leaves in its folder: metrics, the confusion matrix, and pictures."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..draw import draw_caption, draw_legend, draw_semantic, enlarge, write_picture
from .confusion_picture import write_confusion
from .semantic import SemanticEvaluator


def write_semantic_evaluation(
    folder: Path, evaluator: SemanticEvaluator, pictures: Iterable[tuple[str, Tensor]]
) -> tuple[dict[str, dict[str, float]], str]:
    """Write `metrics.json`, `confusion.png` (up to 40 classes) and `pictures/`; return metrics and their table.

    pictures: file names without suffix, and semantic_pictures.
    """
    metrics, text = evaluator.compute()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.json").write_text(json.dumps({**metrics, "summary": text}, indent=2) + "\n")
    write_confusion(folder / "confusion.png", evaluator.confusion, evaluator.names)
    for name, picture in pictures:
        (folder / "pictures").mkdir(exist_ok=True)
        write_picture(folder / "pictures" / f"{name}.jpg", picture)
    return metrics, text


def semantic_picture(
    pixels: Tensor, truth: Tensor, found: Tensor, names: Sequence[str], *, ignore: int = 255
) -> Tensor:
    """Return a picture (3, H, W) of an image (3, h, w), uint8, twice: labels on the left, the prediction on the right.

    truth, found: (h, w), integers. Pixels of the labels that are `ignore` are as in the image. Below is the legend.
    """
    large, _ = enlarge(pixels)
    left, right = (
        torch.cat([draw_caption(large.shape[2], text), draw_semantic(large, labels, ignore=ignore)], dim=1)
        for text, labels in (("labels", truth), ("prediction", found))
    )
    gap = torch.full((3, left.shape[1], 8), 255, dtype=torch.uint8)
    pair = torch.cat([left, gap, right], dim=2)
    present = sorted({*np.unique(truth.cpu()).tolist(), *np.unique(found.cpu()).tolist()} - {ignore})
    return torch.cat([pair, draw_legend(pair.shape[2], present, names)], dim=1)
