"""What evaluations of segmenters and classifiers leave in their folders."""

import json
from pathlib import Path

import pytest
import torch

from vertebra.tools.data.images import read_image
from vertebra.tools.draw import colour
from vertebra.tools.evaluation.classification import ClassificationEvaluator
from vertebra.tools.evaluation.classification_report import (
    RED,
    classification_picture,
    write_classification_evaluation,
)
from vertebra.tools.evaluation.confusion_picture import write_confusion
from vertebra.tools.evaluation.semantic import SemanticEvaluator
from vertebra.tools.evaluation.semantic_report import semantic_picture, write_semantic_evaluation


def test_a_semantic_evaluation_on_disk(tmp_path: Path) -> None:
    truth, found = torch.zeros(2, 60, 80, dtype=torch.uint8)
    truth[:, 40:] = 1
    truth[:20] = 255
    found[:, 60:] = 2
    evaluator = SemanticEvaluator(["sky", "tree", "$ign_$", "car"])
    evaluator.update([truth], [found])
    picture = semantic_picture(torch.full((3, 60, 80), 100, dtype=torch.uint8), truth, found, evaluator.names)
    returned = write_semantic_evaluation(tmp_path / "eval", evaluator, [("a", picture), ("b", picture)])
    assert returned == evaluator.compute()
    written = json.loads((tmp_path / "eval" / "metrics.json").read_text())
    assert written == {**returned[0], "summary": returned[1]}
    assert sorted(path.name for path in (tmp_path / "eval" / "pictures").iterdir()) == ["a.jpg", "b.jpg"]
    assert read_image(tmp_path / "eval" / "pictures" / "a.jpg").shape == (*picture.shape[1:], 3)
    assert read_image(tmp_path / "eval" / "confusion.png").size > 0
    assert picture.shape[2] == 2 * 480 + 8
    caption = 22
    assert (picture[:, caption + 10, 100] == 100).all()  # ignored in the labels, not in the prediction
    for x, label in ((100, 0), (300, 1), (488 + 100, 0), (488 + 450, 2)):
        pixel = picture[:, caption + 300, x].tolist()
        assert pixel == pytest.approx([(100 + part) / 2 for part in colour(label)], abs=0.5)
    inks = {tuple(pixel) for pixel in picture[:, caption + 360 :].flatten(1).T.tolist()}
    assert {colour(0), colour(1), colour(2)} <= inks
    assert colour(3) not in inks


def test_a_classification_on_disk(tmp_path: Path) -> None:
    evaluator = ClassificationEvaluator(["cat", "dog"])
    evaluator.update([0, 1, 1], torch.eye(2)[[0, 0, 1]])
    images = [torch.zeros(3, *size, dtype=torch.uint8) for size in ((32, 32), (50, 400), (300, 1))]
    picture = classification_picture(images, [0, 1, 1], [0, 0, 1], [1, 0.5, 0.7], evaluator.names)
    frames = [tuple(part[:, 10, 5].tolist()) == RED for part in picture.chunk(3, dim=2)]
    assert frames == [False, True, False]
    returned = write_classification_evaluation(tmp_path / "eval", evaluator, picture)
    assert returned == evaluator.compute()
    assert json.loads((tmp_path / "eval" / "metrics.json").read_text())["classification"]["top1"] == 2 / 3
    assert read_image(tmp_path / "eval" / "pictures.jpg").shape == (*picture.shape[1:], 3)
    write_classification_evaluation(tmp_path / "bare", evaluator, None)
    assert sorted(path.name for path in (tmp_path / "bare").iterdir()) == ["confusion.png", "metrics.json"]


def test_many_images_are_in_rows() -> None:
    images = [torch.zeros(3, 20, 20, dtype=torch.uint8)] * 8
    one, eight = (classification_picture(images[:n], [0] * n, [0] * n, [1] * n, ["cat"]) for n in (1, 8))
    assert (eight.shape[1], eight.shape[2]) == (2 * one.shape[1], 6 * one.shape[2])


def test_a_confusion_matrix_that_cannot_be_read_is_not_drawn(tmp_path: Path) -> None:
    for classes in (1, 40, 41):
        names = [f"class {i} of a very long name" for i in range(classes)]
        write_confusion(tmp_path / f"{classes}.png", torch.eye(classes).long().cumsum(0), names)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1.png", "40.png"]
