"""What a report shows of a semantic segmentation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..evaluation.bootstrap import interval
from ..evaluation.semantic import SemanticEvaluator
from ..evaluation.semantic_images import SemanticImages
from .content import Confusion, Content, Headline, ImageCard, Table
from .extremes import Extremes, Kept

SECTION = "semantic"

# What the metrics are in a few words; in this order they are shown.
MEANINGS = {
    "mIoU": "mean over classes of the pixels that are label and prediction, of those that are either",
    "pixel_accuracy": "share of the labelled pixels with the right class",
    "mean_accuracy": "mean over classes of the share of their pixels that was found",
    "fwIoU": "IoU, weighted by how frequent each class is",
    "boundary_IoU": "mean IoU of the boundaries of classes",
}


def semantic_content(
    evaluator: SemanticEvaluator,
    title: str,
    kept: Extremes[bytes],
) -> Content:
    """Return the report of an evaluation, after its `reduce`.

    kept: the worst and the best images by image_quality, as JPEG; their rows count the evaluator's images.
    """
    metrics, _ = evaluator.compute()
    names = SemanticImages(evaluator).names if evaluator.image_counts else []
    return Content(
        title,
        "semantic segmentation",
        facts=[("images", f"{len(names):,}"), ("classes", str(len(evaluator.names)))],
        headlines=[_headline(evaluator, name, value) for name, value in metrics[SECTION].items()],
        tables=[_table(evaluator)],
        confusion=Confusion(
            list(evaluator.names),
            list(evaluator.names),
            evaluator.confusion.tolist(),
            "Pixels: the class of the row is the label, that of the column the prediction.",
        ),
        ranking="Quality is the image's own mean IoU, over the classes in its labels or its prediction.",
        worst=[_card(evaluator, names, one) for one in kept.worst()],
        best=[_card(evaluator, names, one) for one in kept.best()],
    )


def _headline(evaluator: SemanticEvaluator, name: str, value: float) -> Headline:
    drawn = interval(SemanticImages(evaluator, name))
    return Headline(SECTION, name, value, drawn.low, drawn.high, MEANINGS[name])


def _table(evaluator: SemanticEvaluator) -> Table:
    metrics, _ = evaluator.compute()
    counts = evaluator.confusion.double().cpu()
    true, found, hits = counts.sum(dim=1), counts.sum(dim=0), counts.diagonal()
    rows = [
        [
            name,
            float(true[i] / true.sum()),
            metrics["IoU"].get(name),
            metrics["accuracy"].get(name),
            float(hits[i] / found[i]) if found[i] else None,
        ]
        for i, name in enumerate(evaluator.names)
    ]
    columns = ["class", "of all pixels", "IoU", "accuracy", "precision"]
    return Table(SECTION, "all", columns, list(map(list, rows)), ["IoU", "accuracy", "precision", "of all pixels"])


def _card(evaluator: SemanticEvaluator, names: Sequence[str], one: Kept[bytes]) -> ImageCard:
    """Return a card whose note names the classes that cost the image most."""
    hits, true, found = evaluator.image_counts[one.row][:3].astype(np.float64)
    union = true + found - hits
    there = np.flatnonzero(union)
    worst = sorted(there, key=lambda k: hits[k] - union[k])[:3]
    called = evaluator.names
    wrong = [f"{called[k]} {hits[k] / union[k]:.2f}" for k in worst if hits[k] < union[k]]
    accuracy = hits.sum() / max(true.sum(), 1)
    note = f"{100 * accuracy:.1f} % of pixels right" + (f"; IoU of {', '.join(wrong)}" if wrong else "")
    return ImageCard(names[one.row], one.quality, one.payload, [(called[k], "") for k in there], note)
