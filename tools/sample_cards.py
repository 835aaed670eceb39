"""Samples as cards: a picture with what a model learns from it drawn on, and the facts that go with it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..backbones import InputError
from .data.masks import Rle
from .data.sets import IGNORE, Category, Sample
from .data.stream import Loaded, TrainingStream
from .draw import as_rgb, draw_boxes, draw_masks, draw_semantic, enlarge

# Longest side in pixels of the pictures in the grid.
CELL = 400
# Longer names would cover a picture; beside it they stand whole.
NAME_LENGTH = 40

Target = Mapping[str, Any]


@dataclass(frozen=True)
class Card:
    """A sample to show: pictures (3, h, w), uint8, for its page and for the grid, and what is known of it.

    position: in the stream, or in the split. original, size: (height, width) of the image and of what the model gets.
    counts: by label, of what `facts` lists one by one, as name and value. dropped: objects of the image that the sample
    does not have. error: why it cannot be read; then there is no more than the file.
    """

    position: int
    file: str
    image_id: int
    original: tuple[int, int] | None = None
    size: tuple[int, int] | None = None
    page: Tensor | None = None
    cell: Tensor | None = None
    counts: Mapping[int, int] | None = None
    facts: Sequence[tuple[str, str]] = ()
    dropped: int = 0
    error: str = ""


@dataclass(frozen=True)
class Kind:
    """How samples of a kind are shown.

    draw: a picture from (an image (3, h, w) of any size, the target, the size that it is for, names by label).
    facts: label and value of each thing to learn, from the target; `heading` is that of the values, and `one` and
    `many` are what the things are called. first: the first label.
    """

    draw: Callable[[Tensor, Target, tuple[int, int], Mapping[int, str]], Tensor]
    facts: Callable[[Target], list[tuple[int, str]]]
    heading: str
    one: str
    many: str
    first: int

    def counted(self, count: int) -> str:
        return f"{count} {self.one if count == 1 else self.many}"


def shown_names(categories: Sequence[Category], kind: Kind) -> dict[int, str]:
    """Return the names of the labels."""
    return {label: printable(category.name) for label, category in enumerate(categories, start=kind.first)}


def make_cards(
    samples: Iterable[tuple[int, Sample, Loaded | InputError]], names: Mapping[int, str], kind: Kind
) -> Iterator[Card]:
    """Yield the card of each sample, given with its position and the image that it is of."""
    short = cut(names)
    for position, image, sample in samples:
        file = printable(str(image.path))
        if isinstance(sample, InputError):
            yield Card(position, file, image.id, error=printable(str(sample)))
            continue
        pixels, target = sample
        size, facts = (pixels.shape[1], pixels.shape[2]), kind.facts(target)
        height, width = image.read().shape[:2]
        yield Card(
            position,
            file,
            image.id,
            original=(height, width),
            size=size,
            page=kind.draw(enlarge(pixels)[0], target, size, short),
            cell=kind.draw(_within(as_rgb(pixels), CELL), target, size, short),
            counts=dict(Counter(label for label, _ in facts).most_common()),
            facts=[(names[label], value) for label, value in facts],
            dropped=int(target.get("dropped", 0)),
        )


def training_samples(stream: TrainingStream, categories: Sequence[Category], count: int) -> list[tuple[str, Tensor]]:
    """Return the first samples of a stream as a model gets them, with what it learns from drawn on, and their names.

    Pictures (3, H, W), uint8. A sample that cannot be read is left out: training will say so.
    """
    kind = KINDS[stream.target_keys[0]]
    names = cut(shown_names(categories, kind))
    pictures = []
    for position in range(count):
        sample = stream[position]
        if not isinstance(sample, InputError):
            pixels, target = sample
            picture = kind.draw(enlarge(pixels)[0], target, (pixels.shape[1], pixels.shape[2]), names)
            pictures.append((f"training/{position}", picture))
    return pictures


def short_paths(cards: Sequence[Card]) -> list[str]:
    """Return the files of the cards, without the folder that they share."""
    shared = os.path.commonpath([os.path.dirname(card.file) for card in cards])
    return [os.path.relpath(card.file, shared) if shared else card.file for card in cards]


def printable(text: str) -> str:
    """Return a text with a mark for each character that neither a font nor a file in UTF-8 has."""
    return "".join(character if character.isprintable() else "\ufffd" for character in text)


def cut(names: Mapping[int, str]) -> dict[int, str]:
    """Return names that are short enough to be drawn."""
    return {label: name if len(name) <= NAME_LENGTH else f"{name[: NAME_LENGTH - 1]}…" for label, name in names.items()}


def _within(image: Tensor, longest: int) -> Tensor:
    """Return an image (3, H, W), uint8, with a long side of so many pixels."""
    scale = longest / max(image.shape[1:])
    size = [max(1, round(side * scale)) for side in image.shape[1:]]
    scaled = F.interpolate(image[None].float(), size=size, mode="bilinear", antialias=True)
    return scaled[0].round().clamp(0, 255).to(torch.uint8)


# --- what is learnt --------------------------------------------------------------------------------------------------


def dense_masks(masks: Any) -> Tensor:
    """Return masks (N, H, W) of 0 and 1, which targets may hold in a compact form."""
    dense: Tensor = masks if isinstance(masks, Tensor) else masks.dense()
    return dense


def _rles(target: Target) -> list[Rle]:
    from pycocotools import mask as coco_mask

    masks = dense_masks(target["masks"]).numpy() if "masks" in target else ()
    return [coco_mask.encode(np.asfortranarray(mask, np.uint8)) for mask in masks]


def _draw_objects(image: Tensor, target: Target, size: tuple[int, int], names: Mapping[int, str]) -> Tensor:
    labels = target["labels"].tolist()
    factors = torch.tensor([image.shape[2] / size[1], image.shape[1] / size[0]] * 2)
    picture = draw_masks(image, _rles(target), labels)
    # Sides that lie far outside stay outside: numbers without bound are more than Pillow can draw.
    near = (target["boxes"] * factors).clamp(-CELL, max(image.shape) + CELL)
    return draw_boxes(picture, near, labels, [names[label] for label in labels])


def _objects(target: Target) -> list[tuple[int, str]]:
    boxes = [", ".join(f"{side:.1f}" for side in box) for box in target["boxes"].tolist()]
    return list(zip(target["labels"].tolist(), boxes, strict=True))


def _draw_pixels(image: Tensor, target: Target, size: tuple[int, int], names: Mapping[int, str]) -> Tensor:
    return draw_semantic(image, target["semantic"], ignore=IGNORE)


def _pixels(target: Target) -> list[tuple[int, str]]:
    labels, pixels = target["semantic"].unique(return_counts=True)
    total = target["semantic"].numel()
    found = zip(labels.tolist(), pixels.tolist(), strict=True)
    return [(label, f"{count / total:.1%}") for label, count in found if label != IGNORE]


def _draw_class(image: Tensor, target: Target, size: tuple[int, int], names: Mapping[int, str]) -> Tensor:
    label = int(target["label"])
    whole = torch.tensor([[0, 0, image.shape[2] - 1, image.shape[1] - 1]])
    return draw_boxes(image, whole, [label], [names[label]])


def _class(target: Target) -> list[tuple[int, str]]:
    return [(int(target["label"]), "")]


# By the first of a model's target keys.
KINDS: Mapping[str, Kind] = {
    "boxes": Kind(_draw_objects, _objects, heading="left, top, right, bottom", one="object", many="objects", first=1),
    "semantic": Kind(_draw_pixels, _pixels, heading="share of the pixels", one="class", many="classes", first=0),
    "label": Kind(_draw_class, _class, heading="", one="class", many="classes", first=0),
}
