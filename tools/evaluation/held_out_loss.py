"""The loss on held-out images, which tells overfitting before the metrics do."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from ..data.sets import Sample
from ..data.stream import evaluation_batches
from ..engine.arrival import arriving
from ..engine.precision import Precision
from ..engine.processes import Processes
from ..engine.randomness import seeded


def held_out_loss(
    model: Any,
    images: Sequence[Sample],
    count: int,
    *,
    device: torch.device,
    workers: int,
    precision: Precision,
    processes: Processes,
) -> dict[str, float]:
    """Return the mean of each loss over the first `count` images, in the main process; nothing in the others.

    The model is in eval mode, and sees one image at a time, as it is stored. What a loss draws at random, as which
    boxes take part, is the same each time. Each process takes a part of the images; the result is the same to the bit.
    """
    part = processes.part(min(count, len(images)))
    found = list(_losses(model, images[part.start : part.stop], part.start, device, workers, precision))
    gathered = processes.gather(found)
    if gathered is None:
        return {}
    every = [losses for of_process in gathered for losses in of_process]
    return {name: math.fsum(losses[name] for losses in every) / len(every) for name in (every[0] if every else ())}


@torch.no_grad()
def _losses(
    model: Any, images: Sequence[Sample], first: int, device: torch.device, workers: int, precision: Precision
) -> Iterator[dict[str, float]]:
    """Yield the losses of images, of which the first has the number `first` in its set."""
    model.eval()
    batches = evaluation_batches(images, 1, workers, model.target_keys)
    for number, ((pixels, target),) in enumerate(arriving(batches, device), start=first):
        with seeded(number, device), precision.autocast(device):
            losses = model.losses([pixels], [target])
        yield dict(zip(losses, torch.stack(list(losses.values())).tolist(), strict=True))
