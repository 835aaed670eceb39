"""The optimiser: what it does to parameters by hand, and which of them go how fast."""

from typing import Any

import pytest
import torch
from torch import nn

import vertebra
from vertebra.tools.engine.optimisation import make_optimiser, restore_optimiser
from vertebra.tools.settings import Optim


def factors(model: nn.Module, settings: Optim) -> dict[str, tuple[float, float]]:
    """Return the factor and the weight decay of each parameter that is trained, by name."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = make_optimiser(model, settings).param_groups
    return {names[id(p)]: (group["factor"], group["weight_decay"]) for group in groups for p in group["params"]}


def moved(optimiser: torch.optim.Optimizer, parameter: nn.Parameter, gradients: list[float]) -> list[float]:
    """Return the parameter after each of the gradients."""
    values = []
    for gradient in gradients:
        parameter.grad = torch.full_like(parameter, gradient)
        optimiser.step()
        values.append(float(parameter.detach()))
    return values


def test_nesterov_is_given_to_sgd() -> None:
    parameter = nn.Parameter(torch.zeros(1))
    optimiser = make_optimiser(nn.ParameterList([parameter]), Optim(lr=1, momentum=0.5, nesterov=True))
    assert moved(optimiser, parameter, [1]) == pytest.approx([-1.5])  # g + momentum * g; without it g


def test_betas_are_given_to_adamw() -> None:
    parameter = nn.Parameter(torch.zeros(1))
    optimiser = make_optimiser(nn.ParameterList([parameter]), Optim("adamw", lr=1, betas=(0.5, 0.75)))
    # Two steps by hand (Kingma and Ba, algorithm 1), gradients 1 and 3:
    # m1 = 0.5, v1 = 0.25, unbiased 1 and 1: a step of 1.
    # m2 = 0.25 + 1.5 = 1.75, unbiased / 0.75; v2 = 0.1875 + 2.25 = 2.4375, unbiased / 0.4375.
    second = (1.75 / 0.75) / (2.4375 / 0.4375) ** 0.5
    assert moved(optimiser, parameter, [1, 3]) == pytest.approx([-1, -1 - second])


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


def test_the_backbone_learns_slower_and_its_pyramid_does_not() -> None:
    model = vertebra.create_model("faster_rcnn", backbone="resnet18", num_classes=3, norm="group", frozen_stages=1)
    found = factors(model, Optim(backbone_lr=0.1, weight_decay=0.5))
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert found.keys() == trained
    slow = {name for name, (factor, _) in found.items() if factor == 0.1}
    assert slow == {name for name in trained if name.startswith("backbone.body.")}
    assert {factor for name, (factor, _) in found.items() if name not in slow} == {1.0}
    assert found["backbone.body.layer4.0.conv1.weight"] == (0.1, 0.5)
    assert found["backbone.body.layer4.0.bn1.weight"] == (0.1, 0.0)
    assert found["backbone.fpn.inner_blocks.0.0.bias"] == (1.0, 0.0)


@pytest.mark.parametrize("head", ["classifier", "deeplabv3"])
def test_every_head_has_a_backbone_that_may_learn_slower(head: str) -> None:
    found = factors(vertebra.create_model(head, backbone="resnet18", num_classes=3), Optim(backbone_lr=0.1))
    assert {factor for factor, _ in found.values()} == {0.1, 1.0}
    assert all((factor == 0.1) == name.startswith("backbone.") for name, (factor, _) in found.items())


def test_without_a_factor_there_are_two_groups_in_their_old_order() -> None:
    """So that checkpoints of earlier versions fit."""
    groups = make_optimiser(nn.Linear(1, 1), Optim(weight_decay=0.5)).param_groups
    assert [(group["weight_decay"], group["factor"]) for group in groups] == [(0.5, 1.0), (0.0, 1.0)]


def test_unknown_names() -> None:
    with pytest.raises(vertebra.InputError, match=r"unknown optim\.name 'adam'\. Did you mean 'adamw'"):
        make_optimiser(nn.Linear(1, 1), Optim("adam"))
    with pytest.raises(vertebra.InputError, match=r"optim\.backbone_lr=0\.1, but Linear has no `backbone`; set it"):
        make_optimiser(nn.Linear(1, 1), Optim(backbone_lr=0.1))


# --- continuing -----------------------------------------------------------------------------------------------------


def state_after(gradients: list[float], settings: Optim) -> tuple[dict[str, Any], float]:
    """Return an optimiser's state and its parameter after these gradients."""
    parameter = nn.Parameter(torch.zeros(1))
    optimiser = make_optimiser(nn.ParameterList([parameter]), settings)
    return optimiser.state_dict(), moved(optimiser, parameter, gradients)[-1]


@pytest.mark.parametrize("settings", [Optim(lr=0.25), Optim("adamw", lr=0.25)], ids=["sgd", "adamw"])
def test_restored_it_goes_on_to_the_bit(settings: Optim) -> None:
    _, whole = state_after([1, -2, 3], settings)
    parameter = nn.Parameter(torch.zeros(1))
    first = make_optimiser(nn.ParameterList([parameter]), settings)
    moved(first, parameter, [1, -2])
    second = make_optimiser(nn.ParameterList([parameter]), settings)
    restore_optimiser(second, first.state_dict())
    assert moved(second, parameter, [3]) == [whole]


def test_restored_it_keeps_its_own_settings() -> None:
    state, _ = state_after([1], Optim(weight_decay=0.5, momentum=0.5))
    for group in state["param_groups"]:
        del group["factor"]  # as in checkpoints of earlier versions
    optimiser = make_optimiser(nn.ParameterList([nn.Parameter(torch.zeros(1))]), Optim(momentum=0.75))
    restore_optimiser(optimiser, state)
    assert [(group["momentum"], group["factor"]) for group in optimiser.param_groups] == [(0.75, 1.0)]


@pytest.mark.parametrize(
    ("settings", "parameters", "message"),
    [
        (Optim("adamw"), 1, "the checkpoint's optimiser has no .*betas.*; keep optim.name"),
        (Optim(), 2, "other groups of parameters .*; keep backbone.frozen_stages and optim.backbone_lr"),
    ],
)
def test_what_it_cannot_go_on_from(settings: Optim, parameters: int, message: str) -> None:
    state, _ = state_after([1], Optim())
    model = nn.ParameterList([nn.Parameter(torch.zeros(1)) for _ in range(parameters)])
    with pytest.raises(vertebra.InputError, match=message):
        restore_optimiser(make_optimiser(model, settings), state)
