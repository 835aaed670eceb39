"""Matching is torchvision's, for a whole batch; sampling takes what it should."""

import pytest
import torch
from torch import Tensor
from torchvision.models.detection._utils import Matcher
from torchvision.ops import box_iou

from vertebra.heads import matching
from vertebra.heads.matching import match, pad_truth, sample, slots, take
from vertebra.heads.random_keys import random_keys
from vertebra.heads.rcnn import RCNN
from vertebra.heads.roi_heads import choose
from vertebra.heads.rpn import Proposals

COUNTS = (7, 1, 0)


def random_boxes(*shape: int, seed: int = 0) -> Tensor:
    corners = torch.rand(*shape, 2, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return 100 * corners.sort(dim=-2).values.flatten(-2)


TARGETS = [{"boxes": random_boxes(count, seed=count), "labels": torch.arange(1, count + 1)} for count in COUNTS]


@pytest.mark.parametrize("at_once", [2**24, 1])
def test_equal_to_torchvision(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matching, "LARGEST_TABLE", at_once)
    boxes = random_boxes(200, seed=9)
    truth = pad_truth(TARGETS)
    assert truth.present.sum(1).tolist() == list(COUNTS)
    found = match(truth, boxes[None])
    positive = (found.overlaps >= 0.7) | found.is_best
    negative = ~positive & (found.overlaps < 0.3)
    assert bool((found.is_best.sum(1) >= torch.tensor(COUNTS)).all())
    for i, target in enumerate(TARGETS[:2]):
        expected = Matcher(0.7, 0.3, allow_low_quality_matches=True)(box_iou(target["boxes"], boxes))
        assert torch.equal(positive[i], expected >= 0)
        assert torch.equal(negative[i], expected == Matcher.BELOW_LOW_THRESHOLD)
        assert torch.equal(found.objects[i][positive[i]], expected[positive[i]])
    assert bool(negative[2].all())


def test_no_object_in_the_whole_batch() -> None:
    truth = pad_truth([TARGETS[2], TARGETS[2]])
    found = match(truth, random_boxes(2, 10))
    assert truth.boxes.shape == (2, 1, 4)
    assert not found.overlaps.any()
    assert not found.is_best.any()


def masks(positives: int, negatives: int, ignored: int) -> tuple[Tensor, Tensor]:
    kinds = torch.tensor([1] * positives + [0] * negatives + [-1] * ignored)[None]
    kinds = kinds[:, torch.randperm(kinds.shape[1])]
    return kinds == 1, kinds == 0


@pytest.mark.parametrize(
    ("there", "taken"),
    [((40, 60, 10), (5, 15)), ((2, 60, 10), (2, 18)), ((0, 7, 3), (0, 7)), ((40, 3, 0), (5, 3)), ((0, 0, 9), (0, 0))],
)
def test_sample_takes_torchvisions_numbers(there: tuple[int, int, int], taken: tuple[int, int]) -> None:
    """20 at most, a quarter of them positive: positives that lack are made up for by negatives, not the reverse."""
    positive, negative = masks(*there)
    chosen = sample(positive, negative, 20, 0.25, keys(0, positive.shape[1]))
    index = chosen.index[0][chosen.filled[0]].tolist()
    assert len(set(index)) == len(index) == sum(taken)
    assert int(chosen.positive.sum()) == taken[0]
    assert chosen.positive[0, : taken[0]].all()  # they come first
    assert bool((positive[0, index] == chosen.positive[0][chosen.filled[0]]).all())
    assert bool((positive | negative)[0, index].all())
    assert slots(chosen.filled) == sum(taken)


def keys(seed: int, places: int) -> Tensor:
    return random_keys(torch.tensor([seed]), torch.arange(places), 1)


def test_sample_is_fair_and_follows_the_seed() -> None:
    positive, negative = torch.ones(1, 10, dtype=torch.bool), torch.zeros(1, 10, dtype=torch.bool)
    taken = torch.zeros(10)
    for seed in range(2000):
        taken[sample(positive, negative, 8, 0.5, keys(seed, 10)).index[0, :4]] += 1
    assert bool(((taken / 2000 - 0.4).abs() < 0.05).all())
    first, second, again = (sample(positive, negative, 8, 0.5, keys(seed, 10)).index for seed in (3, 4, 3))
    assert torch.equal(first, again)
    assert not torch.equal(first, second)


def test_seeds_are_the_targets_or_torchs() -> None:
    seeded = [{**target, "seed": torch.tensor(seed)} for target, seed in zip(TARGETS, (5, 2**62, 0), strict=True)]
    assert pad_truth(seeded).seeds.tolist() == [5, 2**62, 0]
    drawn = []
    for targets in (TARGETS, TARGETS, [*seeded[:2], TARGETS[2]]):
        torch.manual_seed(0)
        drawn.append(pad_truth(targets).seeds.tolist())
    assert drawn[0] == drawn[1] == drawn[2]
    assert len(set(drawn[0])) == 3


def test_an_image_is_sampled_alike_in_any_batch() -> None:
    """Also where the others have more proposals and more objects, so that its own stand elsewhere in the batch."""
    settings = RCNN["faster_rcnn"]._box_settings()
    targets = [{**target, "seed": torch.tensor(seed)} for target, seed in zip(TARGETS, (11, 7, 3), strict=True)]
    boxes, present = random_boxes(3, 900, seed=1), torch.arange(900) < torch.tensor([[900], [550], [700]])

    def chosen(images: list[int], most: int) -> list[Tensor]:
        proposals = Proposals(boxes[images, :most], present[images, :most])
        learned = choose(proposals, pad_truth([targets[i] for i in images]), settings)
        return [learned.boxes[-1][learned.filled[-1]], learned.labels[-1][learned.filled[-1]]]

    alone, among_others = chosen([1], 550), chosen([2, 0, 1], 900)
    assert all(torch.equal(first, second) for first, second in zip(alone, among_others, strict=True))
    targets[1]["seed"] = torch.tensor(8)
    assert not torch.equal(chosen([1], 550)[0], alone[0])


def test_take() -> None:
    x = torch.arange(24).view(2, 3, 4)
    assert take(x, torch.tensor([[2], [0]])).tolist() == [[[8, 9, 10, 11]], [[12, 13, 14, 15]]]
    assert take(x[..., 0], torch.tensor([[1], [2]])).tolist() == [[4], [20]]
