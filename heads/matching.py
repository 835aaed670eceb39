"""Which box is to learn which object, and which boxes take part in a step: for a whole batch, in tensors of fixed size.

Nothing here waits for the device.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from .boxes import iou, wide
from .random_keys import HIGHEST, draw_seeds

# So many overlaps are held at once, 64 MiB of float32: objects are taken in turns where there are more.
LARGEST_TABLE = 2**24


@dataclass(frozen=True)
class Truth:
    """The objects of a batch, padded to the most that an image has (G, at least 1).

    boxes: (N, G, 4). labels: (N, G). present: (N, G), which of them are real. seeds: (N,), of all that is drawn at
    random for an image.
    """

    boxes: Tensor
    labels: Tensor
    present: Tensor
    seeds: Tensor


def pad_truth(targets: Sequence[Mapping[str, Tensor]]) -> Truth:
    """Stack the boxes and labels of a batch.

    Where all targets have a `seed`, int64 without dimensions, what is drawn for an image depends on that alone, and not
    on the batch that it is in; else on torch's generator.
    """
    boxes = pad_sequence([wide(target["boxes"]) for target in targets], batch_first=True)
    labels = pad_sequence([target["labels"] for target in targets], batch_first=True)
    counts = torch.tensor([len(target["labels"]) for target in targets]).to(boxes.device, non_blocking=True)
    if boxes.shape[1] == 0:
        boxes, labels = boxes.new_zeros(len(targets), 1, 4), labels.new_zeros(len(targets), 1)
    seeds = [target["seed"] for target in targets if "seed" in target]
    return Truth(
        boxes,
        labels,
        torch.arange(boxes.shape[1], device=boxes.device) < counts[:, None],
        torch.stack(seeds) if len(seeds) == len(targets) else draw_seeds(len(targets), boxes.device),
    )


@dataclass(frozen=True)
class Matches:
    """For each box (N, P): the object that it overlaps most, by how much, and whether it is an object's best box."""

    objects: Tensor
    overlaps: Tensor
    is_best: Tensor


def match(truth: Truth, boxes: Tensor) -> Matches:
    """Match boxes (N, P, 4), or (1, P, 4) for all images, with the objects that they overlap most.

    An object's best boxes are all that overlap it as much as any does; those of objects that nothing overlaps are none.
    """
    images, count = truth.present.shape
    shape = (images, boxes.shape[1])
    objects = torch.zeros(shape, dtype=torch.long, device=boxes.device)
    overlaps = torch.zeros(shape, dtype=boxes.dtype, device=boxes.device)
    is_best = torch.zeros(shape, dtype=torch.bool, device=boxes.device)
    at_once = max(1, LARGEST_TABLE // max(1, images * boxes.shape[1]))
    for start in range(0, count, at_once):
        some = slice(start, start + at_once)
        table = iou(truth.boxes[:, some], boxes) * truth.present[:, some, None]  # (N, g, P)
        best, which = table.max(dim=1)
        better = best > overlaps
        objects = torch.where(better, which + start, objects)
        overlaps = torch.where(better, best, overlaps)
        peaks = table.amax(dim=2, keepdim=True)
        is_best |= ((table == peaks) & (peaks > 0)).any(dim=1)
    return Matches(objects, overlaps, is_best)


@dataclass(frozen=True)
class Sample:
    """The boxes that take part in a step (N, K): where they are among all, which slots are filled, and which positive.

    Positives come first, then the rest, then slots that stay empty.
    """

    index: Tensor
    filled: Tensor
    positive: Tensor


def sample(positive: Tensor, negative: Tensor, count: int, positive_fraction: float, keys: Tensor) -> Sample:
    """Choose up to `count` of the boxes (N, P), positives up to a share and negatives for the rest.

    keys: (N, P), random_keys; the boxes with the highest are taken.
    """
    most = min(max(1, int(count * positive_fraction)), positive.shape[1])
    last = torch.where(positive, keys, -1).topk(most).values[:, -1:]  # of the positives that are taken
    ranks = torch.where(positive & (keys >= last), keys + HIGHEST, torch.where(negative, keys, -1))
    ranks, index = ranks.topk(min(count, ranks.shape[1]))
    return Sample(index, ranks >= 0, ranks >= HIGHEST)


def take(x: Tensor, index: Tensor) -> Tensor:
    """Return the rows (N, K, ...) of x (N, P, ...) at (N, K)."""
    if x.ndim == 2:
        return x.gather(1, index)
    return x.gather(1, index[..., None].expand(-1, -1, x.shape[-1]))


def slots(filled: Tensor) -> int:
    """Return how many leading slots of (N, K) are worth computing: as many as the fullest image has.

    Where counting would make the host wait for the device, all of them.
    """
    return int(filled.sum(dim=1).max()) if filled.device.type == "cpu" else filled.shape[1]
