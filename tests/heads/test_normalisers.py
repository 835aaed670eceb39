"""Two parts of a batch, averaged as an engine would, are one with the whole: losses and gradients."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from vertebra.heads import normalisers
from vertebra.heads.semantic_losses import IGNORE, LossSettings, semantic_losses


def mean_with(others: list[Tensor]) -> Callable[[Tensor], Tensor]:
    """What a process gets that shares a batch with one whose tensors, in order, are `others`."""
    return lambda own: (own + others.pop(0)) / 2


def recorded(record: list[Tensor]) -> Callable[[Tensor], Tensor]:
    def note(own: Tensor) -> Tensor:
        record.append(own.detach().clone())
        return own

    return note


def test_alone_a_count_is_itself_and_none_is_one() -> None:
    assert normalisers.shared(torch.tensor(7)).item() == 7
    assert normalisers.shared(torch.tensor(0)).item() == 1
    assert normalisers.shared(torch.tensor(0.25)).item() == 0.25


@pytest.mark.parametrize(("own", "other", "expected"), [(0, 5, 2.5), (5, 0, 2.5), (1, 0, 0.5), (0, 0, 1)])
def test_a_count_is_the_mean_of_both(own: int, other: int, expected: float) -> None:
    """Not of what is left of them after 0 was made 1: three boxes and none are three boxes."""
    with normalisers.averaged_over(mean_with([torch.tensor(other)])):
        assert normalisers.shared(torch.tensor(own)).item() == expected
    assert normalisers.shared(torch.tensor(own)).item() == max(own, 1)


@pytest.mark.parametrize("name", ["cross_entropy", "dice", "ohem"])
@pytest.mark.parametrize("weights", [(), (1.0, 2.0, 0.5, 3.0)])
def test_two_parts_are_one_with_the_whole(name: str, weights: tuple[float, ...]) -> None:
    """Of ohem where the hard pixels are those below a probability, not those of a share."""
    random = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 4, 6, 5, generator=random, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(0, 3, (4, 6, 5), generator=random)
    labels[0], labels[3, :2] = IGNORE, 3  # the parts have unlike numbers of pixels, and of classes
    settings = LossSettings(class_weights=weights)

    def loss(part: slice) -> Tensor:
        return semantic_losses(logits[part], labels[part], (name,), settings)[name]

    whole = loss(slice(0, 4))
    parts = [slice(0, 2), slice(2, 4)]
    records: list[list[Tensor]] = [[], []]
    for part, record in zip(parts, records, strict=True):
        with normalisers.averaged_over(recorded(record)):
            loss(part)
    losses = []
    for part, others in zip(parts, records[::-1], strict=True):
        with normalisers.averaged_over(mean_with(others)):
            losses.append(loss(part))
    averaged = (losses[0] + losses[1]) / 2
    torch.testing.assert_close(averaged, whole, rtol=1e-12, atol=0)
    (expected,), (found,) = (torch.autograd.grad(value, logits) for value in (whole, averaged))
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-15)
