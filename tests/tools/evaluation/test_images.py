"""What evaluations of pixels and of whole images know of each image."""

from pathlib import Path

import numpy as np
import pytest
import torch

from vertebra.backbones import InputError
from vertebra.tools.evaluation.bootstrap import interval
from vertebra.tools.evaluation.classification import ClassificationEvaluator
from vertebra.tools.evaluation.classification_images import VALUES, ClassificationImages
from vertebra.tools.evaluation.semantic import SemanticEvaluator
from vertebra.tools.evaluation.semantic_images import SemanticImages, image_quality
from vertebra.tools.report.extremes import Extremes

NAMES = list("abcdefg")
TIMES = [2, 0, 1, 3, 0, 1]


def maps() -> tuple[torch.Tensor, torch.Tensor]:
    """Return labels, some of them ignored, and predictions (6, 24, 32) of seven classes; the last two are rare."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 5, (6, 6, 8), generator=generator)
    predictions = torch.where(torch.rand(labels.shape, generator=generator) < 0.3, labels.flip(2), labels)
    labels[0, 0, 0], predictions[1, 0, 0], labels[2, 3, 3] = 5, 6, 255
    large, also = (values.repeat_interleave(4, 1).repeat_interleave(4, 2) for values in (labels, predictions))
    return large, also


def scores() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.tensor([0, 1, 2, 3, 3, 0])
    return labels, torch.rand(6, 7, generator=generator) + torch.nn.functional.one_hot(labels, 7) / 2


def semantic(rows: list[int]) -> SemanticEvaluator:
    evaluator = SemanticEvaluator(NAMES)
    labels, predictions = maps()
    evaluator.update(labels[rows], predictions[rows], [f"{row}.png" for row in rows])
    return evaluator


def classification(rows: list[int]) -> ClassificationEvaluator:
    evaluator = ClassificationEvaluator(NAMES)
    labels, values = scores()
    evaluator.update(labels[rows], values[rows], [f"{row}.png" for row in rows])
    return evaluator


@pytest.mark.parametrize("metric", ["mIoU", "pixel_accuracy", "mean_accuracy", "fwIoU", "boundary_IoU"])
def test_pixels_of_any_selection(metric: str) -> None:
    """The value for ones is that of the evaluation; of weights, that of an evaluation in which images come again."""
    for counts in (np.ones(6, np.int64), np.array(TIMES)):
        expected, _ = semantic([row for row in range(6) for _ in range(counts[row])]).compute()
        images = SemanticImages(semantic(list(range(6))), metric)
        assert images.value(counts) == expected["semantic"][metric]
    assert images.metric == f"semantic/{metric}"
    assert images.names == [f"{row}.png" for row in range(6)]
    drawn = interval(images, repeats=50)
    assert drawn.low < drawn.value < drawn.high


@pytest.mark.parametrize("metric", sorted(VALUES))
def test_images_of_any_selection(metric: str) -> None:
    for counts in (np.ones(6, np.int64), np.array(TIMES)):
        expected, _ = classification([row for row in range(6) for _ in range(counts[row])]).compute()
        images = ClassificationImages(classification(list(range(6))), metric)
        assert images.value(counts) == pytest.approx(expected["classification"][metric], abs=1e-15)
    assert images.metric == f"classification/{metric}"
    assert images.names == [f"{row}.png" for row in range(6)]
    assert np.isnan(images.value(np.zeros(6, np.int64)))


def test_quality_of_pixels_by_hand() -> None:
    evaluator = SemanticEvaluator(NAMES, boundary=None)
    truth = torch.tensor([[0, 0, 1, 255]])
    evaluator.update([truth], [torch.tensor([[0, 1, 1, 2]])])
    evaluator.update([torch.full((1, 4), 255)], [truth * 0])
    # a: 1 of 2; b: 1 of 2; the pixel that is ignored counts for nothing.
    assert image_quality(evaluator.image_counts[0]) == 0.5
    images = SemanticImages(evaluator)
    assert images.quality[0] == 0.5
    assert np.isnan(images.quality[1])
    assert images.names == ["image 0", "image 1"]


def test_quality_of_images_is_the_probability_of_the_label() -> None:
    """Of probabilities as they are, of logits by the softmax."""
    probabilities = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]])
    for values in (probabilities, probabilities.log() + 3):
        evaluator = ClassificationEvaluator(["cat", "dog", "cow"])
        evaluator.update([1, 2], values)
        images = ClassificationImages(evaluator)
        assert images.quality == pytest.approx([0.2, 0.6], abs=1e-6)
        assert images.names == ["image 0", "image 1"]


def test_wrong_numbers_of_names() -> None:
    labels, predictions = maps()
    with pytest.raises(InputError, match="2 names came for 1 images"):
        SemanticEvaluator(NAMES).update(labels[:1], predictions[:1], ["a", "b"])
    with pytest.raises(InputError, match="0 names came for 1 images"):
        ClassificationEvaluator(NAMES).update([0], torch.zeros(1, 7), [])


def run_rank(rank: int, folder: Path) -> None:
    torch.distributed.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=2)
    torch.save(everything([range(4), range(4, 6)][rank]), folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


def everything(rows: range) -> list[object]:
    """Return what is known of each image after `reduce`, and the extremes, where this process has these rows."""
    pixels, images = semantic(list(rows)), classification(list(rows))
    kept: Extremes[str] = Extremes(2)
    for row, counts in zip(rows, pixels.image_counts, strict=True):
        kept.add(image_quality(counts), row, lambda row=row: f"picture {row}")
    for part in (pixels, images, kept):
        part.reduce()
    of_pixels = SemanticImages(pixels)
    return [of_pixels.names, of_pixels.quality.tolist(), images.guesses, kept.worst(), kept.best()]


def test_two_processes_equal_one(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(run_rank, (tmp_path,), nprocs=2)
    first = torch.load(tmp_path / "0.pt", weights_only=False)
    assert first == everything(range(6))
    assert len(first[2]) == 6
    assert torch.load(tmp_path / "1.pt", weights_only=False) != first
