"""Pictures of what was found: masks, boxes, names and scores; maps of classes, and their legends."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .data.masks import Rle, decode

# Saturation and value: hues that are near each other are 8 or 13 labels apart, and so they get different ones.
SHADES = ((0.75, 0.95), (0.5, 1.0), (0.95, 0.65))

# Up to so many boxes all have their texts.
FEW_BOXES = 8


@cache
def colour(label: int) -> tuple[int, int, int]:
    """Return the RGB colour of a label: always the same, and neighbours far apart (steps of the golden ratio)."""
    red, green, blue = colorsys.hsv_to_rgb(label * 0.618034 % 1, *SHADES[label // 8 % len(SHADES)])
    return round(red * 255), round(green * 255), round(blue * 255)


@cache
def _font() -> str:
    """Return matplotlib's DejaVu Sans, which has the letters of most alphabets."""
    import matplotlib

    return str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf")


def draw_boxes(image: Tensor, boxes: Tensor, labels: Sequence[int], texts: Sequence[str]) -> Tensor:
    """Return a copy of an image (3, H, W), uint8, with boxes (N, 4) xyxy and texts on them.

    Where there are many boxes, texts that would hide small ones, or other texts, are left out.
    """
    from PIL import ImageFont
    from torchvision.utils import draw_bounding_boxes

    if not len(boxes):
        return image.clone()
    short = min(image.shape[-2:])
    size = max(9, round(short / 32))
    font = ImageFont.truetype(_font(), size)
    text_sizes = torch.tensor([font.getbbox(text)[2:] for text in texts])
    shown = _readable(boxes, labels, text_sizes) if len(boxes) > FEW_BOXES else set(range(len(boxes)))
    drawn: Tensor = draw_bounding_boxes(
        image,
        boxes.round(),
        labels=[text if i in shown else None for i, text in enumerate(texts)],
        colors=[colour(label) for label in labels],
        label_colors=[_ink_on(colour(label)) for label in labels],
        fill_labels=True,
        width=max(1, round(short / 240)),
        font=_font(),
        font_size=size,
    )
    return drawn


def _readable(boxes: Tensor, labels: Sequence[int], text_sizes: Tensor) -> set[int]:
    """Return which boxes (N, 4) shall have their texts, which lie in their upper left corners.

    Those of which the text takes no more than half, without one text on another; large boxes first. The largest box of
    each label always has its text, so that no colour is without a name.
    """
    sides = (boxes[:, 2:] - boxes[:, :2]).clamp(min=0)
    areas = sides.prod(dim=1).tolist()
    order = sorted(range(len(boxes)), key=areas.__getitem__, reverse=True)
    largest = {labels[i]: i for i in reversed(order)}
    chosen: list[int] = []
    covered = torch.cat([boxes[:, :2], boxes[:, :2] + text_sizes], dim=1)
    for i in [*largest.values(), *(i for i in order if i not in largest.values())]:
        start, end = covered[chosen, :2].maximum(covered[i, :2]), covered[chosen, 2:].minimum(covered[i, 2:])
        free = not (end > start).all(dim=1).any()
        if largest[labels[i]] == i or (free and 2 * int(text_sizes[i].prod()) <= areas[i]):
            chosen.append(i)
    return set(chosen)


def _ink_on(fill: tuple[int, int, int]) -> str:
    red, green, blue = fill
    return "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 100 else "white"


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


def draw_semantic(image: Tensor, labels: Tensor, *, ignore: int = 255) -> Tensor:
    """Return a copy of an image (3, H, W), uint8, with a map of classes over it, half transparent, with outlines.

    labels: (h, w), integers, scaled to the image; where they are `ignore` the image stays as it is.
    """
    classes = F.interpolate(labels.cpu()[None, None].float(), size=list(image.shape[-2:]), mode="nearest-exact")[
        0, 0
    ].long()
    shown = classes != ignore
    classes[~shown] = 0
    inks = torch.tensor([colour(label) for label in range(int(classes.max()) + 1)], dtype=torch.uint8)
    ink = inks[classes].permute(2, 0, 1)
    drawn = torch.where(shown, (image.float() + ink) / 2, image).round().to(torch.uint8)
    line = max(1, round(min(image.shape[-2:]) / 360))
    classes[~shown] = -1
    around = [F.max_pool2d(sign * classes[None].float(), 2 * line + 1, 1, line)[0] for sign in (1, -1)]
    return torch.where(shown & (around[0] != -around[1]), ink, drawn)


def draw_legend(width: int, labels: Sequence[int], names: Sequence[str], *, text_size: int = 15) -> Tensor:
    """Return a white strip (3, h, width), uint8, with the colour and the name of each of the labels, in columns."""
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.truetype(_font(), text_size)
    row, swatch, gap = round(1.5 * text_size), text_size, round(text_size / 2)
    texts = [fit(names[label], font, width - swatch - 3 * gap) for label in labels]
    column = max((round(font.getlength(text)) for text in texts), default=0) + swatch + 3 * gap
    columns = max(1, min(len(texts), (width - gap) // column))
    rows = -(-len(texts) // columns)
    strip = Image.new("RGB", (width, rows * row + gap), "white")
    pen = ImageDraw.Draw(strip)
    for i, (label, text) in enumerate(zip(labels, texts, strict=True)):
        left, top = gap + i // rows * column, gap // 2 + i % rows * row  # down the columns, as a list is read
        middle = top + row // 2
        edge = middle - swatch // 2
        pen.rectangle((left, edge, left + swatch, edge + swatch), fill=colour(label), outline="black")
        pen.text((left + swatch + gap, middle), text, fill="black", font=font, anchor="lm")
    return as_picture(strip)


def draw_caption(width: int, text: str, *, text_size: int = 15) -> Tensor:
    """Return a white strip (3, h, width), uint8, with a text in its middle."""
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.truetype(_font(), text_size)
    strip = Image.new("RGB", (width, round(1.5 * text_size)), "white")
    ImageDraw.Draw(strip).text(
        (width / 2, strip.height / 2), fit(text, font, width), fill="black", font=font, anchor="mm"
    )
    return as_picture(strip)


def fit(text: str, font: Any, width: float) -> str:
    """Return a text, cut with an ellipsis if a font of Pillow makes it wider than `width` pixels."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"{text}…") > width:
        text = text[:-1]
    return f"{text}…"


def as_picture(image: Any) -> Tensor:
    """Return an RGB image of Pillow as a tensor (3, height, width), uint8."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def as_rgb(image: Tensor) -> Tensor:
    """Return the first three channels, or only the first, of an image (C, H, W), float in [0, 1], uint8 or uint16.

    As uint8 (3, H, W).
    """
    if image.dtype == torch.uint8 and len(image) == 3:
        return image
    if not image.is_floating_point():
        image = image.float() / torch.iinfo(image.dtype).max
    shown = image[:3] if len(image) >= 3 else image[:1].expand(3, -1, -1)
    return (shown * 255).round().to(torch.uint8)


def enlarge(image: Tensor, short: int = 360) -> tuple[Tensor, float]:
    """Return an image as RGB (3, H, W), uint8, whose short side has at least `short` pixels, and the scale (1 or more).

    Text would cover small images.
    """
    image = as_rgb(image)
    scale = max(1.0, short / min(image.shape[-2:]))
    if scale == 1:
        return image, scale
    size = [round(side * scale) for side in image.shape[-2:]]
    large = F.interpolate(image[None].float(), size=size, mode="bilinear")
    return large[0].round().to(torch.uint8), scale


def encode_picture(image: Tensor, quality: int = 92) -> bytes:
    """Return an image (3, H, W), uint8 RGB, as a JPEG; quality: 1..95, as Pillow has it."""
    from io import BytesIO

    from PIL import Image

    file = BytesIO()
    Image.fromarray(image.permute(1, 2, 0).contiguous().cpu().numpy()).save(file, "JPEG", quality=quality)
    return file.getvalue()


def write_picture(path: Path, image: Tensor) -> None:
    """Write a JPEG of an image (3, H, W), uint8 RGB."""
    path.write_bytes(encode_picture(image))
