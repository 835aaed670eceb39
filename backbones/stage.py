"""A stage: blocks in a row, some of them skipped by stochastic depth, some of their activations recomputed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from math import ceil, sqrt
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .norms import Norm, NormedSequence

# --- recomputing ---------------------------------------------------------------------------------------------------


class Recomputing(nn.Module):
    """A module that can recompute its activations in the backward pass rather than keep them; see `checkpoint_`."""

    recomputes = False


def is_recomputing(module: nn.Module) -> bool:
    """Say whether anything in a module recomputes its activations."""
    return any(isinstance(part, Recomputing) and part.recomputes for part in module.modules())


@contextmanager
def statistics_kept(module: nn.Module) -> Iterator[None]:
    """Let norms in training mode leave their running statistics as the first pass left them.

    With momentum zero, rather than without statistics: autograd wants the second pass to save the same tensors.
    """
    moving: list[Any] = [m for m in module.modules() if m.training and getattr(m, "track_running_stats", False)]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in moving]
    counter = torch.zeros((), dtype=torch.int64)  # that nobody reads; SyncBatchNorm refuses to do without
    for norm in moving:
        norm.momentum, norm.num_batches_tracked = 0.0, counter
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(moving, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count


def recompute(function: Callable[..., Tensor], *inputs: Tensor, module: nn.Module) -> Tensor:
    """Return `function(*inputs)`, keeping only the inputs and computing the rest again in the backward pass.

    module: what holds the function's norms; their running statistics move once, not twice.
    """
    if not torch.is_grad_enabled():
        return function(*inputs)
    if torch.compiler.is_compiling():
        # A compiled graph writes running statistics once, at its end: there is nothing to guard.
        return checkpoint(function, *inputs, use_reentrant=False)
    return checkpoint(
        function, *inputs, use_reentrant=False, context_fn=lambda: (nullcontext(), statistics_kept(module))
    )


# --- stochastic depth ----------------------------------------------------------------------------------------------


class BatchDrop(nn.Module):
    """What survives per-batch stochastic depth is scaled by 1 / (1 - p) in training, so that inference needs no scale.

    The paper (arXiv:1603.09382, equation 5) scales at inference instead; the two are the same up to the last norm's
    affine values. Skipping itself is the stage's: see `Stage`.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        return x / (1 - self.p) if self.training else x

    def extra_repr(self) -> str:
        return f"p={self.p}"


class Block(Protocol):
    """What a stage is made of; `skip` is what remains of the block when its residual branch is dropped."""

    drop_path: nn.Module

    def __call__(self, x: Tensor) -> Tensor: ...

    def skip(self, x: Tensor) -> Tensor: ...


class Stage(nn.Sequential, Recomputing):
    """Blocks that run one after the other.

    Blocks with a `BatchDrop` are skipped in training with its chance, for the whole batch: they cost nothing then. The
    draw is the same on all ranks of a distributed run (a block that only some ranks skip would leave the others waiting
    for its gradients); it needs `find_unused_parameters=True` there. Recomputing keeps the input of every k-th block, k
    of the order of the root of their number, which needs the least memory (arXiv:1604.06174, section 4.1); twice the
    root, as what is kept of all stages is held at once, with what the heads keep, and what is computed again is not.
    """

    def __init__(self, blocks: Sequence[nn.Module]) -> None:
        super().__init__(*blocks)
        drops = [getattr(block, "drop_path", None) for block in blocks]
        self.chances = [drop.p if isinstance(drop, BatchDrop) else 0.0 for drop in drops]

    def forward(self, x: Tensor) -> Tensor:
        steps = self._steps(x)
        if not self.recomputes:
            return _run(steps, x)
        size = 2 * ceil(sqrt(len(steps)))
        for start in range(0, len(steps), size):
            x = recompute(partial(_run, steps[start : start + size]), x, module=self)
        return x

    def _steps(self, x: Tensor) -> list[Callable[[Tensor], Tensor]]:
        """Return what to run this time, decided once, so that recomputing does the same."""
        blocks = cast("list[Block]", list(self))
        if not (self.training and any(self.chances)):
            return list(blocks)
        draws = torch.rand(len(blocks), device=x.device)
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.broadcast(draws, src=0)
        return [
            block.skip if draw < chance else block
            for block, draw, chance in zip(blocks, draws.tolist(), self.chances, strict=True)
        ]


def _run(steps: Sequence[Callable[[Tensor], Tensor]], x: Tensor) -> Tensor:
    for step in steps:
        x = step(x)
    return x


def conv_norm_relu(conv: nn.Conv2d, norm: Norm | None) -> nn.Sequential:
    """Return convolution, norm (if there is one) and ReLU."""
    return NormedSequence(conv, *([norm(conv.out_channels)] if norm else []), nn.ReLU(inplace=True))
