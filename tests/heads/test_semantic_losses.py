"""Losses of pixels, against sums by hand and torch's own."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import vertebra
from vertebra.heads.semantic_losses import IGNORE, LOSSES, LossSettings, check_losses, semantic_losses


def some(pixels: int = 500, classes: int = 5) -> tuple[Tensor, Tensor]:
    """Logits (1, K, 1, P) and labels (1, 1, P), a fifth of them to ignore, and none of the class before the last."""
    random = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(1, classes, 1, pixels, generator=random, dtype=torch.float64)
    labels = torch.randint(0, classes, (1, 1, pixels), generator=random)
    labels[labels == classes - 2] = 0
    labels[:, :, ::5] = IGNORE
    return logits, labels


def loss_of(name: str, logits: Tensor, labels: Tensor, **settings: Any) -> Tensor:
    return semantic_losses(logits, labels, (name,), LossSettings(**settings))[name]


@pytest.mark.parametrize("weights", [(), (1.0, 2.0, 0.5, 0.0, 3.0)])
def test_cross_entropy_is_torchs(weights: tuple[float, ...]) -> None:
    logits, labels = some()
    logits.requires_grad_()
    theirs = F.cross_entropy(
        logits, labels, weight=torch.tensor(weights, dtype=torch.float64) if weights else None, ignore_index=IGNORE
    )
    ours = loss_of("cross_entropy", logits, labels, class_weights=weights)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)
    (expected,), (found,) = (torch.autograd.grad(loss, logits) for loss in (theirs, ours))
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-15)


def test_weights_by_hand() -> None:
    """Two pixels whose classes have the chances 1/2 and 1/4, of weights 1 and 3: (ln 2 + 3 ln 4) / 4."""
    logits = torch.tensor([[0.5, 0.5], [0.25, 0.75]]).log().T.reshape(1, 2, 1, 2)
    labels = torch.tensor([[[1, 0]]])
    found = loss_of("cross_entropy", logits, labels, class_weights=(3.0, 1.0))
    assert found.item() == pytest.approx((math.log(2) + 3 * math.log(4)) / 4)


@pytest.mark.parametrize(("threshold", "share"), [(0.7, 1 / 16), (0.05, 0.25), (0.7, 1.0), (1.0, 0.01)])
def test_ohem_takes_the_hard_pixels(threshold: float, share: float) -> None:
    logits, labels = some()
    each = F.cross_entropy(logits, labels, ignore_index=IGNORE, reduction="none")[labels != IGNORE]
    ranked = each.sort(descending=True).values.tolist()
    least = math.ceil(share * labels.numel())
    kept = [loss for i, loss in enumerate(ranked) if loss > -math.log(threshold) or i < least]
    found = loss_of("ohem", logits, labels, hard_probability=threshold, hard_share=share)
    assert found.item() == pytest.approx(sum(kept) / len(kept), rel=1e-12)


def test_dice_by_hand() -> None:
    """Chances of the true class: 0.8 of a first, 0.6 and 1.0 of two pixels of a second; one pixel is ignored.

    Of a third no pixel is there, so it does not count.
    """
    chances = torch.tensor([[0.8, 0.1, 0.1], [0.3, 0.6, 0.1], [1e-30, 1.0, 1e-30], [0.2, 0.2, 0.6]])
    found = loss_of("dice", chances.log().T.reshape(1, 3, 2, 2), torch.tensor([[[0, 1], [1, IGNORE]]]))
    first, second = 1 - 2 * 0.8 / (1.1 + 1), 1 - 2 * 1.6 / (1.7 + 2)
    assert found.item() == pytest.approx((first + second) / 2)


@pytest.mark.parametrize("name", LOSSES)
def test_nothing_to_learn_from_is_zero(name: str) -> None:
    logits = torch.randn(2, 3, 4, 4, requires_grad=True)
    loss = loss_of(name, logits, torch.full((2, 8, 8), IGNORE), class_weights=(1.0, 2.0, 3.0))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert not logits.grad.any()


@pytest.mark.parametrize("name", LOSSES)
def test_what_is_ignored_has_no_part(name: str) -> None:
    logits, labels = some()
    other = torch.where((labels == IGNORE)[:, None], torch.randn_like(logits), logits)
    torch.testing.assert_close(loss_of(name, logits, labels), loss_of(name, other, labels), rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_falls_with_the_right_answer(name: str) -> None:
    logits, labels = some()
    truth = F.one_hot(labels.clamp(max=4), 5).permute(0, 3, 1, 2)
    history = [loss_of(name, logits + strength * truth, labels).item() for strength in (0, 3, 30)]
    assert history[0] > history[1] > history[2]
    assert history[2] < 1e-3


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_are_those_of_differences(name: str) -> None:
    logits, labels = some(pixels=12, classes=3)
    settings = {"class_weights": (1.0, 0.5, 2.0)}
    assert torch.autograd.gradcheck(lambda x: loss_of(name, x, labels, **settings), logits.requires_grad_())


def test_logits_are_upsampled_in_float32() -> None:
    logits, labels = torch.randn(2, 3, 5, 4).bfloat16(), torch.randint(0, 3, (2, 17, 16))
    found = loss_of("cross_entropy", logits, labels)
    whole = F.interpolate(logits.float(), size=(17, 16), mode="bilinear", align_corners=False)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, F.cross_entropy(whole, labels))


@pytest.mark.parametrize(
    ("names", "settings", "message"),
    [
        (("cross_entrpy",), {}, "Did you mean 'cross_entropy'"),
        ((), {}, "losses is empty"),
        (("dice",), {"class_weights": (1.0,)}, "class_weights has 1 values for 3 classes"),
        (("dice",), {"class_weights": (1.0, -1.0, 0.0)}, "none can be negative"),
        (("ohem",), {"hard_share": 0.0}, "hard_share=0.0; it is above 0"),
    ],
)
def test_bad_settings_are_named(names: tuple[str, ...], settings: dict[str, Any], message: str) -> None:
    with pytest.raises(vertebra.InputError, match=message):
        check_losses(names, LossSettings(**settings), num_classes=3)
