"""The optimiser and the learning rate, at points computed by hand."""

import math

import pytest
import torch
from torch import nn

import vertebra
from vertebra.tools.config import Optim, Schedule
from vertebra.tools.engine.optimisation import learning_rate, make_optimiser


def test_multistep_with_warmup() -> None:
    schedule = Schedule(epochs=12, warmup_steps=100, warmup_factor=0.001, milestones=(8, 11), gamma=0.1)
    rate = learning_rate(schedule, Optim(lr=0.02), steps_per_epoch=1000)
    expected = {0: 0.00002, 50: 0.02 * 0.5005, 100: 0.02, 7999: 0.02, 8000: 0.002, 10999: 0.002, 11000: 0.0002}
    assert {step: rate(step) for step in expected} == pytest.approx(expected)


def test_cosine_with_warmup() -> None:
    schedule = Schedule(epochs=10, warmup_steps=0, decay="cosine")
    rate = learning_rate(schedule, Optim(lr=1.0), steps_per_epoch=10)
    expected = {0: 1.0, 25: 0.5 + math.sqrt(2) / 4, 50: 0.5, 100: 0.0}
    assert {step: rate(step) for step in expected} == pytest.approx(expected)


def test_poly() -> None:
    rate = learning_rate(Schedule(epochs=4, warmup_steps=0, decay="poly", power=0.5), Optim(lr=0.2), steps_per_epoch=10)
    expected = {0: 0.2, 30: 0.1, 40: 0.0, 41: 0.0}  # a quarter is left at 30, and its root is a half
    assert {step: rate(step) for step in expected} == pytest.approx(expected)


def test_nesterov_is_given_to_sgd() -> None:
    with torch.no_grad():
        parameter = nn.Parameter(torch.zeros(1))
    optimiser = make_optimiser(nn.ParameterList([parameter]), Optim(lr=1, momentum=0.5, nesterov=True))
    parameter.grad = torch.ones(1)
    optimiser.step()
    assert float(parameter.detach()) == pytest.approx(-1.5)  # g + momentum * g; without it g


def test_unknown_names() -> None:
    with pytest.raises(vertebra.InputError, match=r"unknown optim\.name 'adam'\. Did you mean 'adamw'"):
        make_optimiser(nn.Linear(1, 1), Optim("adam"))
    with pytest.raises(vertebra.InputError, match=r"unknown schedule\.decay 'cosin'\. Did you mean 'cosine'"):
        learning_rate(Schedule(decay="cosin"), Optim(), 10)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_norms_and_biases_do_not_decay_and_frozen_parameters_are_left_out(name: str) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Linear(4, 2))
    model[2].requires_grad_(False)
    optimiser = make_optimiser(model, Optim(name, weight_decay=0.5, lr=0.1, momentum=0))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(1)
    for group in optimiser.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    optimiser.step()
    values = {name: float(parameter.detach().flatten()[0]) for name, parameter in model.named_parameters()}
    # 1 - lr * decay * 1 where it decays.
    assert values == pytest.approx(
        {"0.weight": 0.95, "0.bias": 1, "1.weight": 1, "1.bias": 1, "2.weight": 1, "2.bias": 1}
    )
