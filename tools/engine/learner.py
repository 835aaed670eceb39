"""One optimiser step: forward and backward through the parts of a batch, and what changes with them."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...heads.normalisers import averaged_over
from .arrival import Batch
from .moving_average import MovingAverage
from .precision import Precision
from .processes import Processes


@dataclass(frozen=True)
class Outcome:
    """What a step did: its losses, means over processes and parts, and the gradient's norm before it was clipped.

    finite: whether the step was taken; a step with a loss or a gradient that is not finite is not.
    """

    losses: dict[str, float]
    gradient_norm: float
    finite: bool


class Learner:
    """A model, and all else that a step changes: the optimiser, the scale of float16's losses, the moving average.

    The optimiser's groups have a `factor`, of the learning rate. Each process has its share of a batch, and works
    through it in `accumulation` parts, whose gradients add up to one step.
    """

    def __init__(
        self,
        model: nn.Module,
        optimiser: torch.optim.Optimizer,
        *,
        device: torch.device,
        precision: Precision,
        processes: Processes,
        accumulation: int = 1,
        clip_norm: float | None = None,
        average: MovingAverage | None = None,
    ) -> None:
        self.model = model
        self.optimiser = optimiser
        self.device = device
        self.precision = precision
        self.processes = processes
        self.accumulation = accumulation
        self.clip_norm = clip_norm
        self.average = average
        self.scaler = precision.scaler(device)
        self.parallel = processes.parallel(model, device)

    def learn(self, batch: Batch, rate: float, step: int) -> Outcome:
        """Take step number `step`, from 0, at a learning rate. The batch is on the device."""
        for group in self.optimiser.param_groups:
            group["lr"] = rate * group["factor"]
        # Before the forward passes, as values that are not finite would stay in running statistics.
        buffers = [(buffer, buffer.clone()) for buffer in self.model.buffers()]
        self.optimiser.zero_grad(set_to_none=True)
        size = len(batch) // self.accumulation
        losses = self._backward([batch[i : i + size] for i in range(0, len(batch), size)])
        self.scaler.unscale_(self.optimiser)
        norm = self._gradient_norm()
        means = self.processes.mean(torch.stack(list(losses.values())))
        *values, norm_value = torch.cat([means, norm.to(means.dtype)[None]]).tolist()
        # Gradients of a scaled loss that overflow are the scaler's to answer: it takes no step, and scales less.
        finite = math.isfinite(sum(values)) and (self.scaler.is_enabled() or math.isfinite(norm_value))
        if finite:
            self.scaler.step(self.optimiser)
        else:
            for buffer, value in buffers:
                buffer.copy_(value)
        if self.scaler.is_enabled():
            self.scaler.update()
        if self.average is not None and math.isfinite(sum(values) + norm_value):
            self.average.update(step + 1)
        return Outcome(dict(zip(losses, values, strict=True)), norm_value, finite)

    def _backward(self, parts: Sequence[Batch]) -> dict[str, Tensor]:
        """Add up the gradients of the parts, and return the means of their losses."""
        total: dict[str, Tensor] = {}
        for number, part in enumerate(parts, start=1):
            images, targets = [image for image, _ in part], [target for _, target in part]
            with contextlib.nullcontext() if number == len(parts) else self._unshared():
                with self.precision.autocast(self.device), averaged_over(self.processes.mean):
                    losses: dict[str, Tensor] = self.parallel(images, targets)
                loss = torch.stack(list(losses.values())).sum() / len(parts)
                self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            for name, value in losses.items():
                share = value.detach() / len(parts)
                total[name] = total[name] + share if name in total else share
        return total

    def _unshared(self) -> contextlib.AbstractContextManager[None]:
        """Gradients of the backward passes within go to no other process: they go once, with the last part."""
        found: contextlib.AbstractContextManager[None] = getattr(self.parallel, "no_sync", contextlib.nullcontext)()
        return found

    def _gradient_norm(self) -> Tensor:
        if self.clip_norm is not None:
            return nn.utils.clip_grad_norm_(self.model.parameters(), self.clip_norm)
        return nn.utils.get_total_norm([p.grad for p in self.model.parameters() if p.grad is not None])
