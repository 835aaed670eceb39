"""Metrics of semantic segmentation: by hand, and against torchmetrics."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import (
    multiclass_accuracy,
    multiclass_confusion_matrix,
    multiclass_jaccard_index,
)

from vertebra.backbones import InputError
from vertebra.tools.data.labels import read_values
from vertebra.tools.evaluation.semantic import SemanticEvaluator

NAMES = ["road", "car", "tree", "boat", "cloud"]


def small() -> tuple[torch.Tensor, torch.Tensor]:
    """Return labels and predictions: boats are predicted only, clouds are in neither, two pixels are ignored."""
    labels = torch.tensor([[0, 0, 0, 1], [0, 1, 1, 1], [2, 255, 255, 2]], dtype=torch.uint8)
    predictions = torch.tensor([[0, 0, 3, 1], [0, 0, 1, 1], [2, 4, 0, 0]], dtype=torch.uint8)
    return labels, predictions


def test_a_sum_by_hand() -> None:
    evaluator = SemanticEvaluator(NAMES)
    labels, predictions = small()
    evaluator.update([labels], [predictions])
    metrics, text = evaluator.compute()
    assert evaluator.confusion.tolist()[:3] == [[3, 0, 0, 1, 0], [1, 3, 0, 0, 0], [1, 0, 1, 0, 0]]
    # road: 3 of 4 + 5 - 3; car: 3 of 4 + 3 - 3; tree: 1 of 2 + 1 - 1; boat: 0 of 1
    assert metrics["IoU"] == {"road": 3 / 6, "car": 3 / 4, "tree": 1 / 2, "boat": 0}
    assert metrics["accuracy"] == {"road": 3 / 4, "car": 3 / 4, "tree": 1 / 2}
    assert metrics["semantic"] == pytest.approx(
        {
            "mIoU": (3 / 6 + 3 / 4 + 1 / 2 + 0) / 4,
            "pixel_accuracy": 7 / 10,
            "mean_accuracy": (3 / 4 + 3 / 4 + 1 / 2) / 3,
            "fwIoU": (4 * 3 / 6 + 4 * 3 / 4 + 2 * 1 / 2) / 10,
            "boundary_IoU": (3 / 6 + 3 / 4 + 1 / 2 + 0) / 4,  # in images this small every pixel is at a boundary
        }
    )
    lines = text.splitlines()
    assert lines[1].split() == ["road", "0.5000", "0.7500", "0.4000"]
    assert "in no label but predicted, IoU 0: boat" in lines
    assert "in neither labels nor predictions, left out: cloud" in lines
    assert max(map(len, lines)) <= 80


def cases(seed: int, classes: int, found: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return random maps (3, 20, 30): labels of the first `classes` and 255, predictions of the first `found`."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (3, 20, 30), generator=generator)
    wrong = torch.rand(labels.shape, generator=generator) < 0.4
    predictions = torch.where(wrong, torch.randint(0, found, labels.shape, generator=generator), labels)
    labels[torch.rand(labels.shape, generator=generator) < 0.1] = 255
    return labels, predictions


@pytest.mark.parametrize("seed", range(3))
def test_equals_torchmetrics(seed: int) -> None:
    """With every class in the labels; in one update, or in one for each image, as arrays and as lists."""
    labels, predictions = cases(seed, 5, 5)
    both = {"num_classes": 5, "ignore_index": 255}
    evaluator = SemanticEvaluator(NAMES)
    for label, prediction in zip(labels, predictions, strict=True):
        evaluator.update([label.numpy().astype(np.uint8)], [prediction.numpy()])
    metrics, text = evaluator.compute()
    assert torch.equal(evaluator.confusion, multiclass_confusion_matrix(predictions, labels, **both))
    assert "left out" not in text
    expected = {
        "mIoU": multiclass_jaccard_index(predictions, labels, average="macro", **both),
        "pixel_accuracy": multiclass_accuracy(predictions, labels, average="micro", **both),
        "mean_accuracy": multiclass_accuracy(predictions, labels, average="macro", **both),
        "fwIoU": multiclass_jaccard_index(predictions, labels, average="weighted", **both),
    }
    for name, value in expected.items():
        assert metrics["semantic"][name] == pytest.approx(float(value), abs=1e-6), name
    per_class = multiclass_jaccard_index(predictions, labels, average="none", **both)
    assert list(metrics["IoU"].values()) == pytest.approx(per_class.tolist(), abs=1e-6)
    at_once = SemanticEvaluator(NAMES)
    at_once.update(labels, list(predictions.to(torch.uint8)))
    assert at_once.compute() == (metrics, text)


def test_absent_classes_and_torchmetrics() -> None:
    """Both count the IoU 0 of a class that is predicted only, and leave one that is in neither out of the means."""
    labels, predictions = cases(0, 3, 4)
    both = {"num_classes": 5, "ignore_index": 255}
    evaluator = SemanticEvaluator(NAMES)
    evaluator.update(labels, predictions)
    metrics, _ = evaluator.compute()
    per_class = multiclass_jaccard_index(predictions, labels, average="none", **both).tolist()
    assert list(metrics["IoU"].values()) == pytest.approx(per_class[:4], abs=1e-6)
    assert per_class[4] == 0  # the difference: a class that is absent has a number there, and none here
    assert "cloud" not in metrics["IoU"]
    expected = float(multiclass_jaccard_index(predictions, labels, average="macro", **both))
    assert metrics["semantic"]["mIoU"] == pytest.approx(expected, abs=1e-6)
    assert metrics["semantic"]["mIoU"] == pytest.approx(sum(per_class[:4]) / 4, abs=1e-6)
    # The other difference: their mean accuracy counts the class that is predicted only as 0. Ours is over the labels'.
    theirs = float(multiclass_accuracy(predictions, labels, average="macro", **both))
    assert metrics["semantic"]["mean_accuracy"] == pytest.approx(theirs * 4 / 3, abs=1e-6)


def test_equals_torchmetrics_on_real_labels(real_data: Path) -> None:
    """Labels of CamVid and the same moved by some pixels, with pixels of another class strewn in."""
    folder = real_data / "camvid"
    names = (folder / "classes.txt").read_text().split()
    paths = sorted((folder / "labels" / "val").iterdir())[::12]
    labels = torch.from_numpy(np.stack([read_values(path) for path in paths]))
    generator = torch.Generator().manual_seed(0)
    predictions = labels.roll((3, -5), (1, 2))
    strewn = (torch.rand(labels.shape, generator=generator) < 0.1) | (predictions == 255)
    predictions[strewn] = torch.randint(0, len(names), (int(strewn.sum()),), generator=generator).to(torch.uint8)
    evaluator = SemanticEvaluator(names)
    evaluator.update(labels, predictions)
    metrics, _ = evaluator.compute()
    both = {"num_classes": len(names), "ignore_index": 255}
    expected = multiclass_jaccard_index(predictions.long(), labels.long(), average="none", **both)
    assert list(metrics["IoU"].values()) == pytest.approx(expected.tolist(), abs=1e-6)
    assert 0.2 < metrics["semantic"]["boundary_IoU"] < metrics["semantic"]["mIoU"] < 0.9
    same = SemanticEvaluator(names)
    same.update(labels, labels)
    assert set(same.compute()[0]["semantic"].values()) == {1.0}


def test_nothing_to_measure() -> None:
    evaluator = SemanticEvaluator(NAMES)
    assert evaluator.compute()[0] == {"semantic": {}, "IoU": {}, "accuracy": {}}
    evaluator.update([torch.full((4, 4), 255)], [torch.full((4, 4), 99)])
    metrics, text = evaluator.compute()
    assert metrics["semantic"] == {}
    assert "not measured, nothing was counted: mIoU, pixel_accuracy" in text
    without = SemanticEvaluator(NAMES, boundary=None)
    without.update(*([m] for m in small()))
    assert set(without.compute()[0]["semantic"]) == {"mIoU", "pixel_accuracy", "mean_accuracy", "fwIoU"}


@pytest.mark.parametrize("ignore", [-1, -100, 300, 0])
def test_any_value_can_be_ignored(ignore: int) -> None:
    """-1 is not 255 of eight bits, nor 300 its 44; and a class can be ignored."""
    labels = torch.tensor([[ignore, 1, 1, 2]])
    evaluator = SemanticEvaluator(["a", "b", "c"], ignore=ignore)
    evaluator.update([labels], [torch.tensor([[255, 1, 0, 2]], dtype=torch.uint8)])
    assert evaluator.confusion.tolist() == [[0, 0, 0], [1, 1, 0], [0, 0, 1]]
    with pytest.raises(InputError, match="the value 255 in its labels"):
        SemanticEvaluator(["a", "b", "c"], ignore=-1).update([torch.tensor([[255]]).to(torch.uint8)], [labels[:, :1]])


@pytest.mark.parametrize(
    ("labels", "predictions", "message"),
    [
        ([np.zeros((2, 3), int)] * 2, [np.zeros((2, 3), int), np.zeros((3, 2), int)], r"image 1 .*\(2, 3\).*\(3, 2\)"),
        (np.zeros((2, 3), int), np.zeros((2, 3), int), r"image 0 of the batch: labels \(3,\)"),
        ([np.zeros((2, 3))], [np.zeros((2, 3), int)], "float64"),
        ([np.zeros((2, 3), bool)], [np.zeros((2, 3), int)], "bool"),
        ([np.full((2, 3), 5)], [np.zeros((2, 3), int)], r"the value 5 in its labels; classes are 0\.\.4"),
        ([np.zeros((2, 3), int)], [np.full((2, 3), 255)], "the value 255 in its prediction"),
        ([np.zeros((2, 3), int)], [np.full((2, 3), -1)], "the value -1 in its prediction"),
        ([np.zeros((2, 3), int)], [], "1 labels and 0 predictions"),
    ],
)
def test_wrong_maps(labels: Any, predictions: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        SemanticEvaluator(NAMES).update(labels, predictions)


@pytest.mark.parametrize("names", [[], ["a", "b", "a"]])
def test_wrong_names(names: list[str]) -> None:
    with pytest.raises(InputError, match="one name for each class"):
        SemanticEvaluator(names)
