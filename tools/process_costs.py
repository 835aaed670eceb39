"""A training step of several processes: how long it takes, and how long their gradients take to be exchanged."""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from ..backbones import InputError
from .build import pick_device
from .engine.arrival import arriving
from .engine.learner import Learner
from .engine.optimisation import make_optimiser
from .engine.precision import pick_precision
from .engine.processes import Processes, joined
from .memory import keep_freed_memory
from .model_costs import Work, build, calibrate_, make_batch
from .settings import Optim
from .timing import seconds_of

# So slow that the weights, and with them the work, stay as they are.
RATE = 1e-9


@dataclass(frozen=True)
class Step:
    """Seconds of each training step of `count` processes, of the slowest of them.

    alone: of steps that exchange no gradients. exchange: of nothing but an all-reduce of as many bytes as the gradients
    have. Both are of one process nothing: alone is seconds, exchange is empty.
    """

    count: int
    seconds: tuple[float, ...]
    alone: tuple[float, ...]
    exchange: tuple[float, ...]
    gradient_bytes: int

    @property
    def median(self) -> float:
        return median(self.seconds)

    @property
    def sent(self) -> float:
        """Bytes that each process sends in an all-reduce by a ring."""
        return ring_bytes(self.count, self.gradient_bytes)


def ring_bytes(count: int, gradient_bytes: float) -> float:
    """Return the bytes that each of `count` processes sends, and gets, in an all-reduce by a ring.

    Each part of the gradients goes round once to be added up, and once to be known to all.
    """
    return 2 * (count - 1) / count * gradient_bytes


def measure(work: Work, count: int, device_name: str, precision: str, threads: int, repeats: int) -> Step:
    """Start `count` processes as torchrun does, and time steps of the engine's learner in them.

    Each works on a batch of `work.batch_size` images of its own, whatever the count.
    """
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=count,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        monitor_interval=0.1,
    )
    try:
        ranks: Mapping[int, Step] = elastic_launch(config, _process)(work, device_name, precision, threads, repeats)
    except ChildFailedError as error:
        raise InputError(f"{count} processes: {_reason(error)}") from error
    return ranks[0]


def _reason(error: ChildFailedError) -> str:
    """Return what the first process that failed has to say."""
    rank, failure = error.get_first_failure()
    message = failure.message
    text = message["message"] if isinstance(message, dict) else str(message)
    return f"number {rank} failed: {(text.splitlines() or ['without a word'])[-1]}"


def _process(work: Work, device_name: str, precision: str, threads: int, repeats: int) -> Step:
    """Be one of the processes."""
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    torch.set_num_threads(threads)
    with joined(device_name) as processes:
        device = processes.device(pick_device(device_name))
        if device.type == "cpu":
            keep_freed_memory()
        learner = _learner(work, device, precision, processes)
        (batch,) = arriving([make_batch(work)], device)
        step = 0

        def learn(around: AbstractContextManager[Any] | None = None) -> None:
            nonlocal step
            with around or nullcontext():
                learner.learn(batch, RATE, step)
            step += 1

        return _timed(learner, learn, repeats)


def _timed(learner: Learner, learn: Any, repeats: int) -> Step:
    processes, device = learner.processes, learner.device
    size = sum(p.numel() * p.element_size() for p in learner.model.parameters() if p.requires_grad)

    def timed(run: Any) -> tuple[float, ...]:
        processes.wait()
        # As many of each process, so that none waits for another's for ever.
        return _slowest(processes, seconds_of(run, device, repeats, enough=0), device)

    seconds = timed(learn)
    if processes.count == 1:
        return Step(1, seconds, seconds, (), size)
    alone = timed(lambda: learn(learner.parallel.no_sync()))  # type: ignore[operator]
    flat = torch.zeros(size // 4, device=device)
    return Step(processes.count, seconds, alone, timed(lambda: dist.all_reduce(flat)), size)


def _slowest(processes: Processes, seconds: Sequence[float], device: torch.device) -> tuple[float, ...]:
    return tuple(processes.largest(torch.tensor(seconds, dtype=torch.float64, device=device)).tolist())


def _learner(work: Work, device: torch.device, precision: str, processes: Processes) -> Learner:
    model = build(work).to(device)
    calibrate_(model, [image.to(device) for image, _ in make_batch(work)])
    model.train()
    optim = Optim(batch_size=work.batch_size * processes.count)
    return Learner(
        model,
        make_optimiser(model, optim),
        device=device,
        precision=pick_precision(precision, device),
        processes=processes,
    )
