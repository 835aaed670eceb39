"""Pictures of detections: boxes, names and scores."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor


@cache
def colour(label: int) -> tuple[int, int, int]:
    """Return the RGB colour of a label: always the same, and neighbours far apart (steps of the golden ratio)."""
    red, green, blue = colorsys.hsv_to_rgb(label * 0.618034 % 1, 0.75, 0.95)
    return round(red * 255), round(green * 255), round(blue * 255)


@cache
def _font() -> str:
    """Return matplotlib's DejaVu Sans, which has the letters of most alphabets."""
    import matplotlib

    return str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf")


def draw_boxes(image: Tensor, boxes: Tensor, labels: Sequence[int], texts: Sequence[str]) -> Tensor:
    """Return a copy of an image (3, H, W), uint8, with boxes (N, 4) xyxy and a text on each."""
    from torchvision.utils import draw_bounding_boxes

    if not len(boxes):
        return image.clone()
    short = min(image.shape[-2:])
    drawn: Tensor = draw_bounding_boxes(
        image,
        boxes.round(),
        labels=list(texts),
        colors=[colour(label) for label in labels],
        label_colors=["black"] * len(texts),
        fill_labels=True,
        width=max(1, round(short / 240)),
        font=_font(),
        font_size=max(9, round(short / 32)),
    )
    return drawn


def enlarge(image: Tensor, short: int = 360) -> tuple[Tensor, float]:
    """Return an image (3, H, W), uint8, enlarged so that its short side has `short` pixels, and the scale (1 or more).

    Text would cover small images.
    """
    scale = max(1.0, short / min(image.shape[-2:]))
    if scale == 1:
        return image, scale
    size = [round(side * scale) for side in image.shape[-2:]]
    large = F.interpolate(image[None].float(), size=size, mode="bilinear")
    return large[0].round().to(torch.uint8), scale


def write_picture(path: Path, image: Tensor) -> None:
    """Write a JPEG of an image (3, H, W), uint8 RGB."""
    from torchvision.io import write_jpeg

    write_jpeg(image, str(path), quality=92)
