"""What the training engine takes for itself: all of a step but forward, backward and optimiser."""

from __future__ import annotations

import io
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import repeat
from pathlib import Path
from time import perf_counter
from typing import Any
from unittest.mock import patch

import torch
from rich.console import Console
from torch import Tensor, nn

from ..backbones import InputError
from ..heads import create_model, head_row
from ..heads.boxed_masks import BoxedMasks
from .engine.arrival import Batch
from .engine.keeping import Keeper
from .engine.learner import Learner
from .engine.log import RunLog, Terminal
from .engine.loop import StepReport, train
from .engine.moving_average import MovingAverage
from .engine.optimisation import make_optimiser
from .engine.precision import pick_precision
from .engine.processes import ALONE
from .engine.stopping import Stopping
from .memory import keep_freed_memory
from .peers import Size, peer_of
from .session import step_record
from .settings import Engine, Optim

# What a step is there for; all else is the engine's own.
WORK = ("forward", "backward", "optimiser")


@dataclass(frozen=True)
class Case:
    """What is measured: `steps` training steps, after two that are not, of a model on images (H, W) in memory."""

    head: str
    backbone: str
    size: Size
    optim: Optim
    precision: str
    device: torch.device
    steps: int

    def __post_init__(self) -> None:
        counts = {"batch_size": self.optim.batch_size, "accumulation": self.optim.accumulation, "steps": self.steps}
        if min(*self.size, *counts.values()) < 1:
            raise InputError(f"size={self.size}, {counts}: each must be at least 1")
        if self.optim.batch_size % self.optim.accumulation:
            raise InputError(f"{counts}: a batch is divided into parts of one size")
        peer_of(self.head)
        pick_precision(self.precision, self.device)


@dataclass(frozen=True)
class Shares:
    """Seconds of each step by part: forward, backward, optimiser, log, rest; and of a checkpoint, of so many steps."""

    seconds: Mapping[str, tuple[float, ...]]
    checkpoint: float
    checkpoint_every: int

    @property
    def mean(self) -> dict[str, float]:
        """Mean seconds of each part in a step, with the part of a checkpoint that falls to it."""
        means = {part: sum(seconds) / len(seconds) for part, seconds in self.seconds.items()}
        return {**means, "checkpoint": self.checkpoint / self.checkpoint_every}

    @property
    def own(self) -> float:
        """The share of the engine's own time in all of it."""
        mean = self.mean
        return sum(seconds for part, seconds in mean.items() if part not in WORK) / sum(mean.values())


def measure(case: Case) -> Shares:
    """Train with the loop, the log and the checkpoints of `vertebra train`.

    The learning rate is so small that the weights, and with them the work, stay as they are.
    """
    if case.device.type == "cpu":
        keep_freed_memory()
    learner = _learner(case)
    watch = _Stopwatch(case.device)
    console = Console(force_terminal=True, file=io.StringIO())
    rows: list[dict[str, float]] = []
    total = 2 + case.steps
    with tempfile.TemporaryDirectory() as scratch, Terminal(console, total, 0, 1) as terminal:
        folder = Path(scratch)
        log = RunLog(folder, 0)

        def after_step(report: StepReport) -> None:
            with watch.timing("log"):
                terminal.show(report)
                log.write(report.step, step_record(report, 1000.0))
            rows.append(watch.lap())

        with _watched(learner, watch):
            train(
                learner,
                repeat(_batch(case), total),
                lambda step: 1e-9,
                start=0,
                seed=0,
                stopping=Stopping(""),
                after_step=after_step,
                skip=_refuse,
            )
        log.close()
        with watch.timing("checkpoint"):
            Keeper(folder, 1).save(_content(learner))
    parts = (*WORK, "log", "rest")
    seconds = {part: tuple(row.get(part, 0.0) for row in rows[2:]) for part in parts}
    return Shares(seconds, watch.lap()["checkpoint"], Engine().checkpoint_every)


class _Stopwatch:
    """Adds up seconds by part; what a device was told to do before counts as done only when it is."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.began = self.lapped = self._now()

    def start(self, *_: Any) -> None:
        self.began = self._now()

    def stop(self, part: str) -> None:
        self.seconds[part] += self._now() - self.began

    @contextmanager
    def timing(self, part: str) -> Iterator[None]:
        self.start()
        yield
        self.stop(part)

    def lap(self) -> dict[str, float]:
        """Return the seconds of each part since the last call, and of the rest; and begin anew."""
        now = self._now()
        found = {**self.seconds, "rest": now - self.lapped - sum(self.seconds.values())}
        self.seconds.clear()
        self.lapped = now
        return found

    def _now(self) -> float:
        if self.device.type != "cpu":
            torch.accelerator.synchronize(self.device)
        return perf_counter()


@contextmanager
def _watched(learner: Learner, watch: _Stopwatch) -> Iterator[None]:
    """Time what the loop calls, from outside, so that it is the loop of every run."""
    backward = Tensor.backward

    def timed(loss: Tensor, *args: Any, **kwargs: Any) -> None:
        with watch.timing("backward"):
            backward(loss, *args, **kwargs)  # type: ignore[no-untyped-call]

    learner.parallel.register_forward_pre_hook(watch.start)
    learner.parallel.register_forward_hook(lambda *_: watch.stop("forward"))
    learner.optimiser.register_step_pre_hook(watch.start)
    learner.optimiser.register_step_post_hook(lambda *_: watch.stop("optimiser"))
    with patch.object(Tensor, "backward", timed):
        yield


def _learner(case: Case) -> Learner:
    torch.manual_seed(0)
    peer = peer_of(case.head)
    row = replace(head_row(case.head), **peer.settings(case.size, 100))
    model: nn.Module = create_model(row, backbone=case.backbone, num_classes=peer.classes).to(case.device)
    if case.device.type == "cuda":
        model.to(memory_format=torch.channels_last)
    return Learner(
        model,
        make_optimiser(model, case.optim),
        device=case.device,
        precision=pick_precision(case.precision, case.device),
        processes=ALONE,
        accumulation=case.optim.accumulation,
        clip_norm=case.optim.clip_norm,
        average=None if case.optim.ema is None else MovingAverage(model, case.optim.ema),
    )


def _batch(case: Case) -> Batch:
    random = torch.Generator().manual_seed(0)
    peer, keys = peer_of(case.head), head_row(case.head).model.target_keys

    def sample(number: int) -> tuple[Tensor, dict[str, Any]]:
        pixels = torch.randint(0, 256, (3, *case.size), dtype=torch.uint8, generator=random)
        target: dict[str, Any] = peer.targets(case.size, peer.classes, random)
        if "masks" in target:
            target["masks"] = BoxedMasks.from_dense(target["masks"])
        numbers = {name: torch.tensor(number) for name in ("image_id", "seed")}
        return pixels, {**{key: target[key] for key in keys}, **numbers}

    return [sample(number) for number in range(case.optim.batch_size)]


def _content(learner: Learner) -> dict[str, Any]:
    """Return a checkpoint as large as a run's."""
    return {
        "model": learner.model.state_dict(),
        "optimiser": learner.optimiser.state_dict(),
        "ema": None if learner.average is None else learner.average.state_dict(),
        "step": 1,
        "preprocessing": {},
        "categories": [],
        "config": "",
    }


def _refuse(step: int, losses: Mapping[str, float], batch: Batch) -> None:
    raise InputError(f"the loss of random weights is not finite ({losses}); choose another backbone or precision")
