"""The first value that is not finite, in a model where it is known which that is."""

import math

import torch
from torch import Tensor, nn

from vertebra.tools.engine.finiteness import Watch, odd_weights


class Logarithm(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.log()


class Root(nn.Module):
    """Its value at 0 is finite, its gradient there is not."""

    def forward(self, x: Tensor) -> Tensor:
        return x.sqrt()


def watched(*modules: nn.Module, given: Tensor) -> Watch:
    model = nn.Sequential(nn.Sequential(*modules), nn.Identity())
    watch = Watch(model)
    with watch.watching():
        model(given).sum().backward()
    assert not any(module._forward_hooks for module in model.modules())
    return watch


def test_the_innermost_first_output() -> None:
    watch = watched(
        nn.Identity(), Logarithm(), nn.ReLU(), given=torch.tensor([1.0, -5.0, 2.0, 4.0], requires_grad=True)
    )
    assert watch.output is not None
    assert (watch.output.name, watch.output.kind) == ("0.1", "Logarithm")
    assert watch.output.share == 0.25
    assert watch.output.largest == torch.tensor(4.0).log()
    assert watch.output.given == 5.0


def test_what_comes_after_an_output_that_is_not_finite_is_not_named() -> None:
    watch = watched(nn.Identity(), nn.ReLU(), given=torch.tensor([1.0, float("nan")]).requires_grad_())
    assert watch.output is not None
    assert watch.output.name == "0.0"
    assert watch.output.given is not None
    assert math.isnan(watch.output.given)


def test_the_first_gradient_on_the_way_back() -> None:
    """The gradient of a root at 0 comes to what is before the root; all outputs are finite."""
    watch = watched(nn.Identity(), nn.ReLU(), Root(), given=torch.tensor([0.0, 4.0], requires_grad=True))
    assert watch.output is None
    assert watch.gradient is not None
    assert (watch.gradient.name, watch.gradient.kind) == ("0.1", "ReLU")
    assert (watch.gradient.share, watch.gradient.largest) == (0.5, 0.25)


def test_all_is_finite() -> None:
    watch = watched(nn.ReLU(), given=torch.tensor([1.0], requires_grad=True))
    assert watch.output is None
    assert watch.gradient is None
    assert odd_weights(nn.Linear(2, 2)) == []


def test_weights() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    with torch.no_grad():
        model[0].weight[1, 0] = float("inf")
    (finding,) = odd_weights(model)
    assert (finding.what, finding.name, finding.share) == ("weight", "0.weight", 0.25)
