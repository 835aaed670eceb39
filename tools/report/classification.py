"""What a report shows of a classifier."""

from __future__ import annotations

from collections.abc import Sequence

from ..evaluation.bootstrap import interval
from ..evaluation.classification import ClassificationEvaluator
from ..evaluation.classification_images import ClassificationImages
from .content import Confusion, Content, Headline, ImageCard, Table
from .extremes import Extremes, Kept

SECTION = "classification"

# What the metrics are in a few words.
MEANINGS = {
    "top1": "share of images whose class has the highest score",
    "top5": "share of images whose class is among the five highest scores",
    "mean_accuracy": "mean over classes of the share of their images that is right",
}


def classification_content(
    evaluator: ClassificationEvaluator,
    title: str,
    kept: Extremes[bytes],
) -> Content:
    """Return the report of an evaluation, after its `reduce`.

    kept: the worst and the best images by the probability of their label, as JPEG; their rows count the evaluator's
    images.
    """
    metrics, _ = evaluator.compute()
    names = ClassificationImages(evaluator).names
    return Content(
        title,
        "classification",
        facts=[("images", f"{len(names):,}"), ("classes", str(len(evaluator.names)))],
        headlines=[_headline(evaluator, name, value) for name, value in metrics[SECTION].items()],
        tables=[_table(evaluator)],
        confusion=Confusion(
            list(evaluator.names),
            list(evaluator.names),
            evaluator.confusion.tolist(),
            "Images: the class of the row is the label, that of the column the prediction.",
        ),
        ranking="Quality is the probability that the model gives to the label.",
        worst=[_card(evaluator, names, one) for one in kept.worst()],
        best=[_card(evaluator, names, one) for one in kept.best()],
    )


def _headline(evaluator: ClassificationEvaluator, name: str, value: float) -> Headline:
    drawn = interval(ClassificationImages(evaluator, name))
    return Headline(SECTION, name, value, drawn.low, drawn.high, MEANINGS[name])


def _table(evaluator: ClassificationEvaluator) -> Table:
    """Return accuracy by class, and precision: the share of what was given the class that has it."""
    metrics, _ = evaluator.compute()
    counts = evaluator.confusion.cpu()
    images, found, hits = counts.sum(dim=1).tolist(), counts.sum(dim=0).tolist(), counts.diagonal().tolist()
    rows = [
        [name, images[i], metrics["accuracy"].get(name), hits[i] / found[i] if found[i] else None]
        for i, name in enumerate(evaluator.names)
    ]
    return Table(SECTION, "all", ["class", "images", "accuracy", "precision"], rows, ["accuracy", "precision"])


def _card(evaluator: ClassificationEvaluator, names: Sequence[str], one: Kept[bytes]) -> ImageCard:
    guess = evaluator.guesses[one.row]
    label, found = evaluator.names[guess.label], evaluator.names[guess.found]
    note = label if label == found else f"{label}, found as {found}"
    return ImageCard(names[one.row], one.quality, one.payload, [(c, "") for c in dict.fromkeys((label, found))], note)
