"""The training loop."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...backbones import InputError

Batch = list[tuple[Tensor, dict[str, Tensor]]]


@dataclass(frozen=True)
class StepReport:
    """What one step did. `images_per_second` counts all the time since the step before, waiting for data included.

    `dropped` is how many objects of its images the transforms lost.
    """

    step: int
    learning_rate: float
    loss: float
    losses: dict[str, float]
    images_per_second: float
    dropped: int


def train(
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    batches: Iterable[Batch],
    learning_rate: Callable[[int], float],
    *,
    start: int,
    seed: int,
    device: torch.device,
    clip_norm: float | None,
    after_step: Callable[[StepReport], None],
) -> int:
    """Take one step for each batch, from step `start` on, and return how many steps have been taken since step 0.

    What a step does depends on the weights, its batch and (seed, step) alone, so a run can be cut at any step. Ctrl-C
    ends the loop after the step under way. A loss that is not finite is an InputError that names the images.
    """
    model.train()
    step = start
    with _interruptible() as interrupted:
        began = time.perf_counter()
        for batch in batches:
            torch.manual_seed(step_seed(seed, step))
            rate = learning_rate(step)
            for group in optimiser.param_groups:
                group["lr"] = rate
            losses = model(*_to_device(batch, device))
            loss = torch.stack(list(losses.values())).sum()
            values = {name: float(value.detach()) for name, value in losses.items()}
            if not math.isfinite(sum(values.values())):
                raise _not_finite(values, step, batch)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            if clip_norm is not None:
                nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
            optimiser.step()
            step += 1
            now = time.perf_counter()
            dropped = sum(int(target.get("dropped", 0)) for _, target in batch)
            after_step(StepReport(step, rate, sum(values.values()), values, len(batch) / (now - began), dropped))
            began = now
            if interrupted():
                break
    return step


def step_seed(seed: int, step: int) -> int:
    """Return the seed of everything random in a step; distinct for distinct steps of a run."""
    return (seed * 1_000_003 + step) % 2**63


def _to_device(batch: Batch, device: torch.device) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    images = [image.to(device, non_blocking=True) for image, _ in batch]
    return images, [{key: value.to(device, non_blocking=True) for key, value in target.items()} for _, target in batch]


def _not_finite(losses: dict[str, float], step: int, batch: Batch) -> InputError:
    values = ", ".join(f"{name} {value:.3g}" for name, value in losses.items())
    ids = ", ".join(str(int(target["image_id"])) for _, target in batch)
    return InputError(
        f"the loss is not finite at step {step} ({values}; image ids {ids}): lower optim.lr, set optim.clip_norm, or "
        "lengthen schedule.warmup_steps"
    )


@contextmanager
def _interruptible() -> Iterator[Callable[[], bool]]:
    """Yield a function that says whether Ctrl-C was pressed; a second Ctrl-C acts at once."""
    pressed: list[int] = []

    def on_interrupt(number: int, frame: Any) -> None:
        pressed.append(number)
        signal.signal(signal.SIGINT, before)

    before = signal.getsignal(signal.SIGINT)
    try:
        signal.signal(signal.SIGINT, on_interrupt)
    except ValueError:  # not in the main thread: nothing to answer there
        yield lambda: False
        return
    try:
        yield lambda: bool(pressed)
    finally:
        signal.signal(signal.SIGINT, before)
