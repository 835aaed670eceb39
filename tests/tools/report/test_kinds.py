"""What reports of segmenters and of classifiers say: by hand."""

from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image

from vertebra.tools.evaluation.classification import ClassificationEvaluator
from vertebra.tools.evaluation.semantic import SemanticEvaluator
from vertebra.tools.evaluation.semantic_images import image_quality
from vertebra.tools.report.cards import LONGEST, card_picture
from vertebra.tools.report.classification import classification_content
from vertebra.tools.report.extremes import Extremes
from vertebra.tools.report.semantic import semantic_content


def test_a_segmenter() -> None:
    evaluator = SemanticEvaluator(["road", "car", "tree", "boat"])
    kept: Extremes[bytes] = Extremes()
    truth = torch.tensor([[0, 0, 0, 1], [0, 1, 1, 1]])
    for row, found in enumerate([truth, torch.tensor([[0, 0, 0, 1], [0, 0, 1, 2]]), truth * 0]):
        evaluator.update([truth], [found], [f"{row}.png"])
        kept.add(image_quality(evaluator.image_counts[-1]), row, lambda row=row: bytes([row]))
    content = semantic_content(evaluator, "run", kept)
    metrics, _ = evaluator.compute()
    assert {h.name: h.value for h in content.headlines} == metrics["semantic"]
    for headline in content.headlines:
        assert headline.low is not None
        assert headline.high is not None
        assert headline.low <= headline.value <= headline.high
        assert headline.meaning
    (table,) = content.tables
    # Pixels: 12 of road, of which 12 were found and 5 more; 12 of car, 4 + 2 found; a tree was found where none is.
    assert table.rows == [
        ["road", 0.5, pytest.approx(12 / 17), 1.0, pytest.approx(12 / 17)],
        ["car", 0.5, 0.5, 0.5, 1.0],
        ["tree", 0.0, 0.0, None, 0.0],
        ["boat", 0.0, None, None, None],
    ]
    assert content.confusion is not None
    assert content.confusion.counts == [[12, 0, 0, 0], [5, 6, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert [(card.name, card.picture) for card in content.worst] == [("2.png", b"\2"), ("1.png", b"\1")]
    assert [(card.name, card.quality) for card in content.best] == [("0.png", 1.0)]
    assert content.worst[0].quality == pytest.approx((4 / 8 + 0) / 2)
    assert content.worst[0].note == "50.0 % of pixels right; IoU of road 0.50, car 0.00"
    assert content.worst[1].objects == [("road", ""), ("car", ""), ("tree", "")]
    assert content.best[0].note == "100.0 % of pixels right"
    assert content.facts == [("images", "3"), ("classes", "4")]


def test_a_classifier() -> None:
    evaluator = ClassificationEvaluator(["cat", "dog", "cow"])
    kept: Extremes[bytes] = Extremes(1)
    values = torch.tensor([[0.7, 0.2, 0.1], [0.6, 0.4, 0.0], [0.1, 0.8, 0.1]])
    evaluator.update([0, 1, 1], values, ["a.png", "b.png", "c.png"])
    for row, guess in enumerate(evaluator.guesses):
        kept.add(guess.probability, row, lambda row=row: bytes([row]))
    content = classification_content(evaluator, "run", kept)
    assert [(h.name, h.value) for h in content.headlines] == [
        ("top1", pytest.approx(2 / 3)),
        ("mean_accuracy", pytest.approx(3 / 4)),
    ]
    (table,) = content.tables
    assert table.rows == [["cat", 1, 1.0, 0.5], ["dog", 2, 0.5, 1.0], ["cow", 0, None, None]]
    (worst,), (best,) = content.worst, content.best
    assert (worst.name, worst.note, worst.objects) == ("b.png", "dog, found as cat", [("dog", ""), ("cat", "")])
    assert (best.name, best.note, best.objects) == ("c.png", "dog", [("dog", "")])
    assert worst.quality == pytest.approx(0.4)


def test_nothing_was_evaluated() -> None:
    pixels = semantic_content(SemanticEvaluator(["road"]), "run", Extremes())
    images = classification_content(ClassificationEvaluator(["cat"]), "run", Extremes())
    for content in (pixels, images):
        assert content.headlines == content.worst == content.best == []
        assert content.facts[0] == ("images", "0")


@pytest.mark.parametrize("size", [(40, 90), (300, 3000), (2400, 1000)])
def test_pictures_are_not_larger_than_a_screen(size: tuple[int, int]) -> None:
    image = torch.full((3, *size), 90, dtype=torch.uint8)
    picture = Image.open(BytesIO(card_picture(image)))
    scale = min(1, LONGEST / max(size))
    assert (picture.height, picture.width) == tuple(round(side * scale) for side in size)
    assert abs(np.asarray(picture).astype(int) - 90).max() <= 2
