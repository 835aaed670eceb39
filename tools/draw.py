"""Pictures of detections: masks, boxes, names and scores."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from .data.masks import Rle, decode


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


def draw_masks(image: Tensor, masks: Sequence[Rle], labels: Sequence[int]) -> Tensor:
    """Return a copy of an image (3, H, W), uint8, with masks, half transparent and outlined, scaled to its size.

    Large ones lie under small ones.
    """
    from pycocotools import mask as coco_mask

    drawn = image.clone()
    line = max(1, round(min(image.shape[-2:]) / 360))
    areas = [int(coco_mask.area(rle)) for rle in masks]
    for i in sorted(range(len(masks)), key=areas.__getitem__, reverse=True):
        mask = torch.from_numpy(decode([masks[i]], *masks[i]["size"]))  # one at a time: together they may be large
        _paint(drawn, _scaled(mask[0], image.shape[-2:]), torch.tensor(colour(labels[i])), line)
    return drawn


def _scaled(mask: Tensor, size: Sequence[int]) -> Tensor:
    """(h, w), 0 or 1 -> (H, W), bool; with smooth edges, where nearest pixels would give steps."""
    if mask.shape == torch.Size(size):
        return mask.bool()
    return F.interpolate(mask[None, None].float(), size=list(size), mode="bilinear")[0, 0] > 0.5


def _paint(image: Tensor, mask: Tensor, ink: Tensor, line: int) -> None:
    """Paint a mask (H, W), bool, into an image (3, H, W), with an outline of `line` pixels along its inside."""
    rows, columns = (mask.any(dim=axis).nonzero().flatten().tolist() for axis in (1, 0))
    if not rows:
        return
    # The window around the mask: the whole of a large image for each of many masks would take seconds.
    top, left = max(0, rows[0] - line), max(0, columns[0] - line)
    window = (slice(top, rows[-1] + line + 1), slice(left, columns[-1] + line + 1))
    inside, part = mask[window], image[:, *window]
    near_outside = F.max_pool2d((~inside)[None].float(), 2 * line + 1, stride=1, padding=line)[0] > 0
    part[:, inside] = ((part[:, inside].float() + ink[:, None]) / 2).round().to(torch.uint8)
    part[:, inside & near_outside] = ink[:, None].to(torch.uint8)


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
