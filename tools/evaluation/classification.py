"""Metrics of classification."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...backbones import InputError
from .confusion import check_image_names, check_names, confusion
from .reduction import gathered, summed
from .table import note, table

# With more classes the text shows only so many, of the lowest accuracy.
SHOWN = 40


@dataclass(frozen=True)
class Guess:
    """What is kept of one image: its label, the class found, their probabilities, whether it is among the five."""

    name: str | None
    label: int
    found: int
    probability: float
    score: float
    in_five: bool


class ClassificationEvaluator:
    """Scores the classes of images against their labels. Use it in any loop: `update`, `reduce`, `compute`.

    Top-1 and top-5 are the shares of images whose class is the one, or among the five, of the highest scores (of equal
    scores, the class of the lower index is higher); top-5 is left out where there are five classes or fewer. Accuracy
    of a class is top-1 among its images; mean accuracy is its mean over the classes that are in the labels. `guesses`
    has what was found image by image.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = check_names(names)
        # Rows: labels; columns: predictions.
        self.confusion = torch.zeros(len(names), len(names), dtype=torch.int64)
        self.in_five = torch.zeros((), dtype=torch.int64)
        self.guesses: list[Guess] = []

    def update(
        self,
        labels: Tensor | Sequence[Tensor | int],
        scores: Tensor | Sequence[Tensor],
        names: Sequence[str] | None = None,
    ) -> None:
        """Add images: labels (N,), integers 0..K-1, and scores (N, K), probabilities or logits; or sequences of N.

        names: of the images, as reports call them; without them they have numbers.
        """
        values = scores if isinstance(scores, Tensor) else torch.stack(list(scores)) if len(scores) else torch.zeros(0)
        truth = torch.as_tensor(labels if isinstance(labels, Tensor) else [int(label) for label in labels])
        truth = truth.to(values.device)
        if not len(truth) and not len(values):
            return
        if truth.is_floating_point() or values.shape != (len(truth), len(self.names)) or truth.ndim != 1:
            raise InputError(
                f"labels {tuple(truth.shape)} of {truth.dtype} and scores {tuple(values.shape)} came; integers (N,) "
                f"and (N, {len(self.names)}) are expected, for {len(self.names)} classes"
            )
        truth = truth.long()
        odd = (truth < 0) | (truth >= len(self.names))
        if odd.any():
            raise InputError(f"label {truth[odd][0].item()} came; classes are 0..{len(self.names) - 1}")
        if values.isnan().any():
            raise InputError(f"scores of image {int(values.isnan().any(dim=1).nonzero()[0])} of the batch are NaN")
        called = check_image_names(names, len(truth))
        own = values.gather(1, truth[:, None])
        index = torch.arange(len(self.names), device=values.device)
        before = ((values > own) | ((values == own) & (index < truth[:, None]))).sum(dim=1)
        # Not argmax, which may give any of equal scores.
        found = values.sort(dim=1, descending=True, stable=True).indices[:, 0]
        counts = confusion(truth, found, len(self.names), torch.ones_like(odd))
        self.confusion = self.confusion.to(counts.device) + counts
        self.in_five = self.in_five.to(counts.device) + (before < 5).sum()
        probabilities = _probabilities(values).gather(1, torch.stack([truth, found], dim=1))
        columns = (truth, found, *probabilities.unbind(dim=1), before < 5)
        self.guesses += map(Guess, called, *(column.tolist() for column in columns))

    def reduce(self) -> None:
        """Add up the counts of all processes of torch.distributed, in each of them; once, after the last update.

        What is kept of each image comes into the first of them, by rank.
        """
        self.confusion = summed(self.confusion)
        self.in_five = summed(self.in_five)
        self.guesses = [guess for part in gathered(self.guesses) for guess in part]

    def compute(self) -> tuple[dict[str, dict[str, float]], str]:
        """Return metrics and a table of them as text; what cannot be measured is left out, and named in the text.

        Metrics, 0 to 1: `classification` has top1, top5 and mean_accuracy; `accuracy` the classes by name.
        """
        counts = self.confusion.cpu()
        hits, images, everything = counts.diagonal().tolist(), counts.sum(dim=1).tolist(), int(counts.sum())
        if not everything:
            return {"classification": {}, "accuracy": {}}, "no images were counted: nothing to measure"
        accuracy = {n: hit / of for n, hit, of in zip(self.names, hits, images, strict=True) if of}
        totals = {"top1": sum(hits) / everything}
        if len(self.names) > 5:
            totals["top5"] = self.in_five.item() / everything
        totals["mean_accuracy"] = sum(accuracy.values()) / len(accuracy)
        rows = [(n, accuracy[n], of) for n, of in zip(self.names, images, strict=True) if of]
        lowest = sorted(rows, key=lambda row: row[1])[:10] if len(rows) > SHOWN else rows
        cut = f"the {len(lowest)} of {len(rows)} classes with the lowest accuracy:"
        lines = [
            *([cut] if len(lowest) < len(rows) else []),
            *table(("class", "accuracy", "images"), lowest),
            "",
            *table(("", "all"), totals.items())[1:],
        ]
        missing = note("without images, left out", (n for n in self.names if n not in accuracy))
        return {"classification": totals, "accuracy": accuracy}, "\n".join([*lines, *filter(None, [missing])])


def _probabilities(scores: Tensor) -> Tensor:
    """Return scores (N, K) that are probabilities as they are, and of logits the softmax."""
    scores = scores.double()
    if (scores >= 0).all() and ((scores.sum(dim=1) - 1).abs() < 1e-2).all():
        return scores
    return scores.softmax(dim=1)
