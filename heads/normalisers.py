"""What the sums of a loss are divided by, where several processes each work on a part of a batch.

A loss over a batch is a quotient of sums, not a mean of the quotients of its parts. Engines average gradients over
processes: then each process has to divide by the mean of the processes' counts, and all are as one with the whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

Mean = Callable[[Tensor], Tensor]

_MEAN: ContextVar[Mean | None] = ContextVar("mean over processes", default=None)


@contextmanager
def averaged_over(mean: Mean) -> Iterator[None]:
    """Let losses be those of a batch that several processes share.

    mean: returns the mean of a tensor over the processes, without a gradient. All of them have to compute the same
    losses in the same order, as each loss waits for it.
    """
    token = _MEAN.set(mean)
    try:
        yield
    finally:
        _MEAN.reset(token)


def shared(count: Tensor) -> Tensor:
    """Return what to divide a sum over `count` by: the count, the mean of it over processes; 1 where that is 0."""
    mean = _MEAN.get()
    whole = count if mean is None else mean(count)
    return torch.where(whole > 0, whole, 1)


def pooled(sums: Tensor) -> Tensor:
    """Return sums of a batch as means over the processes, for a loss that is more than one quotient of them.

    The gradient is of this process's own sums. So the loss has to be the same for sums of any scale.
    """
    mean = _MEAN.get()
    return sums if mean is None else sums + (mean(sums.detach()) - sums.detach())
