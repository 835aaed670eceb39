"""What an evaluation of classification leaves in its folder: metrics, the confusion matrix, and a picture."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ..draw import as_rgb, draw_caption, write_picture
from .classification import ClassificationEvaluator
from .confusion_picture import write_confusion

# Pixels of a cell's picture, and of the frame around it.
CELL, FRAME = 160, 6
RED, GREY = (215, 25, 28), (200, 200, 200)


def write_classification_evaluation(
    folder: Path, evaluator: ClassificationEvaluator, picture: Tensor | None
) -> tuple[dict[str, dict[str, float]], str]:
    """Write `metrics.json`, `confusion.png` (up to 40 classes) and `pictures.jpg`; return metrics and their table.

    picture: a classification_picture, or None for none.
    """
    metrics, text = evaluator.compute()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.json").write_text(json.dumps({**metrics, "summary": text}, indent=2) + "\n")
    write_confusion(folder / "confusion.png", evaluator.confusion, evaluator.names)
    if picture is not None:
        write_picture(folder / "pictures.jpg", picture)
    return metrics, text


def classification_picture(
    images: Sequence[Tensor], truth: Sequence[int], found: Sequence[int], scores: Sequence[float], names: Sequence[str]
) -> Tensor:
    """Return a grid (3, H, W) of images (3, h, w), uint8, each with its prediction and score, framed red where wrong.

    Where it is wrong the true name stands below. There must be one image or more.
    """
    columns = min(6, len(images))
    cells = [
        _cell(image, f"{score:.2f} {names[guess]}", "" if guess == label else f"not {names[label]}")
        for image, label, guess, score in zip(images, truth, found, scores, strict=True)
    ]
    blank = torch.full_like(cells[0], 255)
    cells += [blank] * (-len(cells) % columns)
    rows = [torch.cat(cells[i : i + columns], dim=2) for i in range(0, len(cells), columns)]
    return torch.cat(rows, dim=1)


def _cell(image: Tensor, prediction: str, mistake: str) -> Tensor:
    """Return an image fitted into a square with a frame, and two lines of text below."""
    side = CELL + 2 * FRAME
    cell = torch.tensor(RED if mistake else GREY, dtype=torch.uint8)[:, None, None].repeat(1, side, side)
    cell[:, FRAME:-FRAME, FRAME:-FRAME] = squared(image, CELL)
    texts = [draw_caption(side, text, text_size=14) for text in (prediction, mistake)]
    return F.pad(torch.cat([cell, *texts], dim=1), (4, 4, 4, 6), value=255)


def squared(image: Tensor, side: int = 320) -> Tensor:
    """Return an image (3, h, w), uint8, as large as it fits into the middle of a white square (3, side, side)."""
    image = as_rgb(image)
    scale = side / max(image.shape[-2:])
    height, width = (max(1, round(length * scale)) for length in image.shape[-2:])
    # Nearest for the large pixels of small images, which smoothing would turn into fog.
    fitted = (
        F.interpolate(image[None].float(), (height, width), mode="nearest-exact")
        if scale >= 2
        else F.interpolate(image[None].float(), (height, width), mode="bilinear", antialias=True)
    )
    square = torch.full((3, side, side), 255, dtype=torch.uint8)
    top, left = (side - height) // 2, (side - width) // 2
    square[:, top : top + height, left : left + width] = fitted[0].round().to(torch.uint8)
    return square
