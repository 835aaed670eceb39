"""The loop, on a model that is not a detector: it must not know what it trains."""

import signal
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vertebra.tools.engine.learner import Learner
from vertebra.tools.engine.loop import StepReport, step_seed, train
from vertebra.tools.engine.moving_average import MovingAverage
from vertebra.tools.engine.precision import PRECISIONS
from vertebra.tools.engine.processes import ALONE, Processes
from vertebra.tools.engine.stopping import Stopping

CPU = torch.device("cpu")


class Line(nn.Module):
    """Fits `weight` to the targets, with noise from torch's generator, and statistics of what it has seen."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.register_buffer("seen", torch.zeros(1))
        self.drawn: list[float] = []

    def forward(self, images: list[Tensor], targets: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        self.drawn.append(float(torch.rand(1)))
        wanted = torch.stack([target["value"] for target in targets])
        self.seen += wanted.mean()
        return {"loss_line": (self.weight - wanted).square().mean(), "loss_none": self.weight.sum() * 0}


def batches(values: list[list[float]]) -> Iterator[list[Any]]:
    for i, batch in enumerate(values):
        yield [
            (torch.zeros(3, 4, 4), {"value": torch.tensor(v), "image_id": torch.tensor(i), "dropped": torch.tensor(2)})
            for v in batch
        ]


class Run:
    """A run of steps with rates of 0.25, 0.5 and 0.25."""

    def __init__(
        self, model: Line, values: list[list[float]], start: int = 0, processes: Processes = ALONE, **options: Any
    ) -> None:
        self.reports: list[StepReport] = []
        self.skipped: list[tuple[int, dict[str, float]]] = []
        optimiser = torch.optim.SGD([{"params": model.parameters(), "factor": 1.0}], lr=1.0)
        learner = Learner(model, optimiser, device=CPU, precision=PRECISIONS["float32"], processes=processes, **options)
        with Stopping("stopped") as stopping, stopping.noting():
            self.steps = train(
                learner,
                batches(values),
                [0.25, 0.5, 0.25].__getitem__,
                start=start,
                seed=1,
                stopping=stopping,
                after_step=self.after_step,
                skip=lambda step, losses, batch: self.skipped.append((step, losses)),
            )

    def after_step(self, report: StepReport) -> None:
        self.reports.append(report)


def test_steps_follow_the_learning_rate() -> None:
    """W <- w - rate * 2 (w - 1): from 0 with 0.25 and 0.5 to 0.5 and then 1; gradients -2 and -1."""
    model = Line()
    run = Run(model, [[1.0], [1.0]])
    assert run.steps == 2
    assert float(model.weight.detach()) == 1.0
    assert [(r.step, r.learning_rate, r.loss, r.gradient_norm) for r in run.reports] == [
        (1, 0.25, 1.0, 2.0),
        (2, 0.5, 0.25, 1.0),
    ]
    assert run.reports[0].losses == {"loss_line": 1.0, "loss_none": 0.0}
    assert all(r.images_per_second > 0 and 0 <= r.waiting < 1 and r.dropped == 2 for r in run.reports)
    assert all(r.memory > 1e7 for r in run.reports)  # no process with torch is smaller


def test_groups_have_factors_of_the_rate() -> None:
    model = Line()
    optimiser = torch.optim.SGD([{"params": model.parameters(), "factor": 0.1}], lr=1.0)
    learner = Learner(model, optimiser, device=CPU, precision=PRECISIONS["float32"], processes=ALONE)
    learner.learn(next(batches([[1.0]])), 0.25, 0)
    assert float(model.weight.detach()) == pytest.approx(0.25 * 0.1 * 2)


def test_parts_of_a_batch_are_one_step() -> None:
    """The mean over four images, in one piece and in two parts."""
    whole, parts = Line(), Line()
    reports = [Run(model, [[1.0, 2.0, 3.0, 6.0]], accumulation=n).reports[0] for model, n in ((whole, 1), (parts, 2))]
    assert float(whole.weight.detach()) == float(parts.weight.detach()) == 0.25 * 2 * 3
    assert [r.loss for r in reports] == [12.5, 12.5]
    assert [len(model.drawn) for model in (whole, parts)] == [1, 2]


def test_randomness_belongs_to_the_step() -> None:
    whole, rest = Line(), Line()
    Run(whole, [[1.0], [1.0], [1.0]])
    Run(rest, [[1.0]], start=2)
    assert whole.drawn[2] == rest.drawn[0]
    assert len(set(whole.drawn)) == 3
    assert len({step_seed(seed, step, p) for seed in range(10) for step in range(1000) for p in range(8)}) == 80_000


def test_gradients_are_clipped() -> None:
    model = Line()
    run = Run(model, [[100.0]], clip_norm=0.4)
    assert float(model.weight.detach()) == pytest.approx(0.25 * 0.4)
    assert run.reports[0].gradient_norm == 200.0


@pytest.mark.parametrize("bad", [float("inf"), float("nan")])
def test_a_step_that_is_not_finite_leaves_no_trace(bad: float) -> None:
    """Neither in weights, nor in statistics, nor in the moving average; the steps after it are taken."""
    model, without = Line(), Line()
    average = MovingAverage(model, 0.5)
    run = Run(model, [[1.0], [bad], [1.0]], average=average)
    assert [step for step, _ in run.skipped] == [2]
    assert run.steps == 3
    assert [r.step for r in run.reports] == [1, 3]
    Run(without, [[1.0]])
    Run(without, [[1.0]], start=2)
    assert torch.equal(model.weight, without.weight)
    assert float(model.seen) == 2.0
    assert all(value.isfinite().all() for value in average.state_dict().values())


def test_the_average_moves_with_the_steps() -> None:
    """After one step d = min(0.5, 2 / 11): of the weight 0.5 the average has 9 / 11."""
    model = Line()
    average = MovingAverage(model, 0.5)
    Run(model, [[1.0]], average=average)
    assert float(average.state_dict()["weight"]) == pytest.approx(0.5 * 9 / 11)


def test_a_signal_ends_the_loop_after_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Run, "after_step", lambda self, report: signal.raise_signal(signal.SIGTERM))
    assert Run(Line(), [[1.0], [1.0], [1.0]]).steps == 1


def test_a_signal_while_processes_agree_is_not_lost() -> None:
    """One that comes after this process was asked whether it had one, and before it is told of the others'."""

    class Late(Processes):
        def largest(self, values: Tensor) -> Tensor:
            if not values:
                signal.raise_signal(signal.SIGTERM)
            return values

    assert Run(Line(), [[1.0], [1.0], [1.0]], processes=Late(0, 0, 1)).steps == 2
