"""The learning rate over time, at points computed by hand and beside torch's own schedulers."""

import math

import pytest
import torch
from torch.optim import lr_scheduler

import vertebra
from vertebra.tools.engine.schedules import learning_rate, length, milestones
from vertebra.tools.settings import Optim, Schedule


@pytest.mark.parametrize(
    ("schedule", "steps_per_epoch", "steps"),
    [
        (Schedule(epochs=12), 7392.9375, 88715),  # 12 * 118,287 images / 16 = 88,715.25
        (Schedule(epochs=0.001), 100, 1),
        (Schedule(epochs=12, steps=500), 7392.9375, 500),
    ],
)
def test_length(schedule: Schedule, steps_per_epoch: float, steps: int) -> None:
    assert length(schedule, steps_per_epoch) == steps


def test_multistep_with_warmup() -> None:
    schedule = Schedule(epochs=12, warmup_steps=100, warmup_factor=0.001, milestones=(8, 11), gamma=0.1)
    rate = learning_rate(schedule, Optim(lr=0.02), steps_per_epoch=1000)
    expected = {0: 0.00002, 50: 0.02 * 0.5005, 100: 0.02, 7999: 0.02, 8000: 0.002, 10999: 0.002, 11000: 0.0002}
    assert {step: rate(step) for step in expected} == pytest.approx(expected)


def test_milestones_of_a_length_in_steps_are_steps() -> None:
    schedule = Schedule(epochs=12, steps=90, warmup_steps=0, milestones=(60, 80), gamma=0.5)
    rate = learning_rate(schedule, Optim(lr=1.0), steps_per_epoch=10)
    assert [rate(step) for step in (0, 59, 60, 79, 80, 89)] == [1, 1, 0.5, 0.5, 0.25, 0.25]


def test_a_milestone_is_the_first_step_that_is_not_before_it() -> None:
    # 1,000 images in steps of 3: after 3 epochs just as many steps, after 1 epoch the 333rd is not yet whole.
    assert milestones(Schedule(milestones=(1, 3)), 1000 / 3) == [334, 1000]
    # In floating point 0.07 * 100 is 7.000000000000001.
    assert milestones(Schedule(milestones=(0.07,)), 100) == [7]


def test_cosine() -> None:
    rate = learning_rate(Schedule(epochs=10, warmup_steps=0, decay="cosine"), Optim(lr=1.0), steps_per_epoch=10)
    expected = {0: 1.0, 25: 0.5 + math.sqrt(2) / 4, 50: 0.5, 100: 0.0, 101: 0.0}
    assert {step: rate(step) for step in expected} == pytest.approx(expected)


def test_poly_ends_at_the_floor() -> None:
    schedule = Schedule(steps=40, warmup_steps=0, decay="poly", power=0.5, floor=0.25)
    rate = learning_rate(schedule, Optim(lr=0.2), steps_per_epoch=1)
    # A quarter is left at 30, and its root is a half: half of the way from 0.2 down to 0.05.
    expected = {0: 0.2, 30: 0.125, 40: 0.05, 41: 0.05}
    assert {step: rate(step) for step in expected} == pytest.approx(expected)


@pytest.mark.parametrize("decay", ["multistep", "cosine", "poly"])
def test_every_step_equals_torchs_schedulers(decay: str) -> None:
    schedule = Schedule(
        epochs=6, warmup_steps=10, warmup_factor=0.1, decay=decay, milestones=(3, 5), gamma=0.3, power=2
    )
    rate = learning_rate(schedule, Optim(lr=0.5), steps_per_epoch=20)
    optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], 0.5)
    warmup = lr_scheduler.LinearLR(optimiser, start_factor=0.1, total_iters=10)
    decays = {
        "multistep": lambda: lr_scheduler.MultiStepLR(optimiser, [60, 100], gamma=0.3),
        "cosine": lambda: lr_scheduler.CosineAnnealingLR(optimiser, T_max=120),
        "poly": lambda: lr_scheduler.PolynomialLR(optimiser, total_iters=120, power=2),
    }
    theirs = lr_scheduler.ChainedScheduler([warmup, decays[decay]()], optimiser)
    for step in range(120):
        assert rate(step) == pytest.approx(optimiser.param_groups[0]["lr"], abs=1e-12), step
        optimiser.step()
        theirs.step()


def test_unknown_decay() -> None:
    with pytest.raises(vertebra.InputError, match=r"unknown schedule\.decay 'cosin'\. Did you mean 'cosine'"):
        learning_rate(Schedule(decay="cosin"), Optim(), 10)
