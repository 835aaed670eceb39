"""Metrics of classification: by hand, and against torchmetrics."""

from typing import Any

import pytest
import torch
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_confusion_matrix

from vertebra.backbones import InputError
from vertebra.tools.evaluation.classification import ClassificationEvaluator


def test_a_sum_by_hand() -> None:
    evaluator = ClassificationEvaluator(["cat", "dog", "cow"])
    scores = torch.tensor([[0.7, 0.2, 0.1], [0.4, 0.5, 0.1], [0.1, 0.8, 0.1], [0.6, 0.3, 0.1]])
    evaluator.update(torch.tensor([0, 0, 1]), scores[:3])
    evaluator.update([torch.tensor(0)], [scores[3]])
    metrics, text = evaluator.compute()
    assert metrics == {
        "classification": {"top1": 3 / 4, "mean_accuracy": pytest.approx((2 / 3 + 1) / 2)},
        "accuracy": {"cat": pytest.approx(2 / 3), "dog": 1},
    }
    assert evaluator.confusion.tolist() == [[2, 1, 0], [0, 1, 0], [0, 0, 0]]
    lines = text.splitlines()
    assert lines[1].split() == ["cat", "0.6667", "3"]
    assert "without images, left out: cow" in lines


@pytest.mark.parametrize("seed", range(3))
def test_equals_torchmetrics(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 12, (200,), generator=generator)
    scores = torch.randn(200, 12, generator=generator) + 2 * torch.nn.functional.one_hot(labels, 12)
    evaluator = ClassificationEvaluator([f"class {i}" for i in range(12)])
    for part in (slice(0, 150), slice(150, 200), slice(200, 200)):
        evaluator.update(labels[part], scores[part])
    metrics, _ = evaluator.compute()

    def accuracy(**options: Any) -> torch.Tensor:
        return multiclass_accuracy(scores, labels, 12, **options)

    assert metrics["classification"] == pytest.approx(
        {
            "top1": float(accuracy(average="micro")),
            "top5": float(accuracy(average="micro", top_k=5)),
            "mean_accuracy": float(accuracy(average="macro")),
        },
        abs=1e-6,
    )
    assert list(metrics["accuracy"].values()) == pytest.approx(accuracy(average="none").tolist(), abs=1e-6)
    assert torch.equal(evaluator.confusion, multiclass_confusion_matrix(scores, labels, 12))


def test_equal_scores_are_in_order_of_the_classes() -> None:
    """A model that gives every class the same score has no top-1 or top-5 but by this order."""
    evaluator = ClassificationEvaluator(list("abcdefgh"))
    evaluator.update(torch.arange(8), torch.zeros(8, 8))
    metrics, _ = evaluator.compute()
    assert metrics["classification"] == {"top1": 1 / 8, "top5": 5 / 8, "mean_accuracy": 1 / 8}


def test_many_classes_and_none() -> None:
    evaluator = ClassificationEvaluator([f"class {i}" for i in range(50)])
    assert evaluator.compute() == ({"classification": {}, "accuracy": {}}, "no images were counted: nothing to measure")
    evaluator.update([], torch.zeros(0, 50))
    evaluator.update(range(50), torch.eye(50)[[*range(49), 0]])
    metrics, text = evaluator.compute()
    assert len(metrics["accuracy"]) == 50
    assert len(text.splitlines()) < 20
    assert text.splitlines()[2].split() == ["class", "49", "0.0000", "1"]


@pytest.mark.parametrize(
    ("labels", "scores", "message"),
    [
        (torch.tensor([3]), torch.zeros(1, 3), r"label 3 came; classes are 0\.\.2"),
        (torch.tensor([-1]), torch.zeros(1, 3), "label -1"),
        (torch.tensor([0]), torch.zeros(1, 4), r"scores \(1, 4\)"),
        (torch.tensor([0, 1]), torch.zeros(1, 3), r"labels \(2,\)"),
        (torch.tensor([0.5]), torch.zeros(1, 3), "float32"),
        (torch.tensor([0, 1]), torch.tensor([[0.0, 1, 2], [0, float("nan"), 1]]), "scores of image 1 .* are NaN"),
    ],
)
def test_wrong_input(labels: torch.Tensor, scores: torch.Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message):
        ClassificationEvaluator(["a", "b", "c"]).update(labels, scores)
