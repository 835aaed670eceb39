"""The loop, on a model that is not a detector: it must not know what it trains."""

import signal
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import vertebra
from vertebra.tools.engine.loop import StepReport, step_seed, train


class Line(nn.Module):
    """Fits `weight` to the targets, with noise from torch's generator."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.drawn: list[float] = []

    def forward(self, images: list[Tensor], targets: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        self.drawn.append(float(torch.rand(1)))
        wanted = torch.stack([target["value"] for target in targets])
        return {"loss_line": (self.weight - wanted).square().mean(), "loss_none": self.weight.sum() * 0}


def batches(values: list[float]) -> Iterator[list[Any]]:
    for i, value in enumerate(values):
        yield [(torch.zeros(3, 4, 4), {"value": torch.tensor(value), "image_id": torch.tensor(i)})]


def run(model: Line, values: list[float], start: int = 0, **changes: Any) -> tuple[int, list[StepReport]]:
    reports: list[StepReport] = []
    options: dict[str, Any] = {"clip_norm": None, "after_step": reports.append, **changes}
    optimiser = torch.optim.SGD(model.parameters(), lr=1.0)
    rate = [0.25, 0.5, 0.25].__getitem__
    device = torch.device("cpu")
    return train(model, optimiser, batches(values), rate, start=start, seed=1, device=device, **options), reports


def test_steps_follow_the_learning_rate() -> None:
    """W <- w - rate * 2 (w - 1): from 0 with 0.25 and 0.5 to 0.5 and then 1."""
    model = Line()
    steps, reports = run(model, [1.0, 1.0])
    assert steps == 2
    assert float(model.weight.detach()) == 1.0
    assert [(r.step, r.learning_rate, r.loss) for r in reports] == [(1, 0.25, 1.0), (2, 0.5, 0.25)]
    assert reports[0].losses == {"loss_line": 1.0, "loss_none": 0.0}
    assert all(r.images_per_second > 0 for r in reports)


def test_randomness_belongs_to_the_step() -> None:
    whole, rest = Line(), Line()
    run(whole, [1.0, 1.0, 1.0])
    run(rest, [1.0], start=2)
    assert whole.drawn[2] == rest.drawn[0]
    assert len(set(whole.drawn)) == 3
    assert len({step_seed(seed, step) for seed in range(10) for step in range(1000)}) == 10_000


def test_gradients_are_clipped() -> None:
    model = Line()
    run(model, [100.0], clip_norm=0.4)
    assert float(model.weight.detach()) == pytest.approx(0.25 * 0.4)


def test_a_loss_that_is_not_finite_names_the_images() -> None:
    with pytest.raises(vertebra.InputError, match=r"not finite at step 1 \(loss_line inf, .*image ids 1\)"):
        run(Line(), [1.0, float("inf")])


def test_ctrl_c_ends_after_the_step_and_gives_the_handler_back() -> None:
    before = signal.getsignal(signal.SIGINT)
    steps, _ = run(Line(), [1.0, 1.0, 1.0], after_step=lambda report: signal.raise_signal(signal.SIGINT))
    assert steps == 1
    assert signal.getsignal(signal.SIGINT) is before


def test_a_second_ctrl_c_acts_at_once() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background of a shell ignores it

    def twice(report: StepReport) -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run(Line(), [1.0, 1.0], after_step=twice)
