"""`vertebra benchmark engine`: every second goes to the part that took it; how many is no test's business."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vertebra.heads.boxed_masks import BoxedMasks
from vertebra.tools import engine_speed
from vertebra.tools.engine.keeping import Keeper
from vertebra.tools.engine.learner import Learner
from vertebra.tools.engine.log import RunLog
from vertebra.tools.engine.moving_average import MovingAverage
from vertebra.tools.engine.precision import PRECISIONS
from vertebra.tools.engine.processes import ALONE
from vertebra.tools.settings import Optim

Command = Callable[..., Any]
Take = Callable[[float], None]
CPU = torch.device("cpu")


@pytest.fixture
def take(monkeypatch: pytest.MonkeyPatch) -> Take:
    """A clock that stands still, but for what is said to take some seconds."""
    now = [0.0]
    monkeypatch.setattr(engine_speed, "perf_counter", lambda: now[0])

    def seconds(count: float) -> None:
        now[0] += count

    return seconds


def slow_learner(take: Take) -> Learner:
    """Its forward pass takes a second, its backward pass 2, its optimiser 4, and its moving average 8."""

    class Slow(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            take(1)
            return x.clone()

        @staticmethod
        def backward(ctx: Any, *gradients: Tensor) -> Tensor:
            take(2)
            return gradients[0]

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(()))

        def forward(self, images: list[Tensor], targets: list[dict[str, Tensor]]) -> dict[str, Tensor]:
            return {"loss": Slow.apply(self.weight)}

    class Optimiser(torch.optim.SGD):
        def step(self, closure: Any = None) -> None:
            take(4)

    class Average(MovingAverage):
        def update(self, step: int) -> None:
            take(8)

    model = Model()
    return Learner(
        model,
        Optimiser([{"params": list(model.parameters()), "factor": 1.0}], lr=0.1),
        device=CPU,
        precision=PRECISIONS["float32"],
        processes=ALONE,
        accumulation=2,
        average=Average(model, 0.9),
    )


def test_each_second_goes_to_the_part_that_took_it(monkeypatch: pytest.MonkeyPatch, take: Take) -> None:
    """Two parts of a batch: forward and backward twice. With a log of 16 s and a checkpoint of 5000 s, 10 s a step."""
    monkeypatch.setattr(engine_speed, "_learner", lambda case: slow_learner(take))
    monkeypatch.setattr(RunLog, "write", lambda log, step, record: take(16))
    monkeypatch.setattr(Keeper, "save", lambda keeper, content: take(5000))
    case = engine_speed.Case("faster_rcnn", "resnet18", (32, 48), Optim(batch_size=2), "float32", CPU, steps=3)
    backward = Tensor.backward
    shares = engine_speed.measure(case)
    assert Tensor.backward is backward
    assert shares.seconds == {
        "forward": (2, 2, 2), "backward": (4, 4, 4), "optimiser": (4, 4, 4), "log": (16, 16, 16), "rest": (8, 8, 8),
    }  # fmt: skip
    assert shares.mean["checkpoint"] == 10
    assert shares.own == pytest.approx((16 + 8 + 10) / (2 + 4 + 4 + 16 + 8 + 10))


def test_the_figures_are_complete(cli: Command, tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    done = cli(
        "benchmark", "engine", "--backbone", "resnet18", "--size", "32x48", "--batch-size", 1,
        "--clip-norm", 1, "--steps", 2, "--threads", 1, "--device", "cpu", "--json", file,
    )  # fmt: skip
    assert done.status == 0, done.err
    figures = json.loads(file.read_text())
    assert (figures["size"], figures["optim"]["clip_norm"], figures["threads"]) == ([32, 48], 1, 1)
    assert figures["versions"]["torch"] == torch.__version__
    seconds = figures["seconds"]
    assert list(seconds) == ["forward", "backward", "optimiser", "log", "rest"]
    assert all(len(steps) == 2 and min(steps) > 0 for steps in seconds.values())
    sums = {part: sum(steps) / 2 for part, steps in seconds.items()}
    own = sums["log"] + sums["rest"] + figures["checkpoint"] / 500
    assert figures["own"] == pytest.approx(own / (own + sums["forward"] + sums["backward"] + sums["optimiser"]))
    assert f"{figures['own']:.2%}" in done.out
    assert max(map(len, done.out.splitlines())) <= 100


def test_masks_come_as_from_the_stream() -> None:
    case = engine_speed.Case("mask_rcnn", "resnet18", (32, 48), Optim(batch_size=2), "float32", CPU, steps=1)
    for image, target in engine_speed._batch(case):
        assert (image.shape, image.dtype) == ((3, 32, 48), torch.uint8)
        assert isinstance(target["masks"], BoxedMasks)
        assert len(target["masks"]) == len(target["boxes"]) == len(target["labels"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--head", "mask_rcn"), "Did you mean 'mask_rcnn'?"),
        (("--precision", "bf16"), "unknown engine.precision 'bf16'"),
        (("--precision", "tf32"), "'tf32' is not for the device cpu"),
        (("--size", "640"), "--size '640'; it is HxW, such as 480x640"),
        (("--steps", 0), "'steps': 0}: each must be at least 1"),
        (("--batch-size", 3, "--accumulation", 2), "a batch is divided into parts of one size"),
    ],
)
def test_bad_options_are_named(cli: Command, arguments: tuple[object, ...], message: str) -> None:
    done = cli("benchmark", "engine", "--device", "cpu", *arguments)
    assert done.status == 2
    assert message in done.err
    assert not done.out
