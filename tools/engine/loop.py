"""The training loop."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch

from .arrival import Batch, arriving
from .learner import Learner
from .stopping import Stopping


@dataclass(frozen=True)
class StepReport:
    """What one step did.

    step: how many have been taken. loss: the sum of `losses`. gradient_norm: before clipping. images_per_second: of all
    processes, over all the time since the step before. waiting: the share of that time in which data were waited for.
    memory: the peak on the device, on a CPU of the process, in bytes. dropped: how many objects the transforms lost.
    """

    step: int
    learning_rate: float
    loss: float
    losses: dict[str, float]
    gradient_norm: float
    images_per_second: float
    waiting: float
    memory: int
    dropped: int


# What to do of a step that was not taken: its number, its losses and its batch.
Skip = Callable[[int, dict[str, float], Batch], None]


def train(
    learner: Learner,
    batches: Iterable[Batch],
    learning_rate: Callable[[int], float],
    *,
    start: int,
    seed: int,
    stopping: Stopping,
    after_step: Callable[[StepReport], None],
    skip: Skip,
) -> int:
    """Take one step for each batch, from step `start` on, and return how many steps have been taken since step 0.

    What a step does depends on the weights, its batch and (seed, step, process) alone, so a run can be cut at any step.
    A signal to stop ends the loop after the step under way, in all processes the same. batches: this process's share.
    """
    learner.model.train()
    processes = learner.processes
    step = start
    began = time.perf_counter()
    for batch, waited in _timed(arriving(batches, learner.device)):
        torch.manual_seed(step_seed(seed, step, processes.rank))
        rate = learning_rate(step)
        outcome = learner.learn(batch, rate, step)
        step += 1
        now = time.perf_counter()
        if outcome.finite:
            after_step(
                StepReport(
                    step,
                    rate,
                    sum(outcome.losses.values()),
                    outcome.losses,
                    outcome.gradient_norm,
                    len(batch) * processes.count / (now - began),
                    waited / (now - began),
                    _peak_memory(learner.device),
                    _dropped(batch),
                )
            )
        else:
            skip(step, outcome.losses, batch)
        began = now
        asked = int(processes.largest(torch.tensor(stopping.asked or 0)))
        if asked:  # a signal of just now is left for the next step
            stopping.asked = asked
            break
    return step


def step_seed(seed: int, step: int, process: int = 0) -> int:
    """Return the seed of everything random in a step; distinct for distinct steps and processes of a run."""
    return (seed * 1_000_003 + step + (process << 44)) % 2**63


def _timed(batches: Iterable[Batch]) -> Iterator[tuple[Batch, float]]:
    """Yield each batch with the seconds that it was waited for."""
    began = time.perf_counter()
    for batch in batches:
        yield batch, time.perf_counter() - began
        began = time.perf_counter()


def _dropped(batch: Batch) -> int:
    found = [target["dropped"] for _, target in batch if "dropped" in target]
    return int(torch.stack(found).sum()) if found else 0  # one question to the device for all images


def _peak_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    # In kB, but on macOS.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
