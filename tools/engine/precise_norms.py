"""Batch norms: statistics for evaluation that are those of the present weights, and norms that cannot be trained."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ...backbones import InputError
from ...backbones.stage import statistics_kept
from .randomness import seeded

Given = TypeVar("Given")


def check_norms(model: nn.Module, device: torch.device) -> None:
    """Refuse synchronised norms that several processes would train on another device than CUDA, which torch cannot."""
    parallel = torch.distributed.is_available() and torch.distributed.is_initialized()
    if device.type == "cuda" or not parallel or torch.distributed.get_world_size() == 1:
        return
    with _training(model):
        names = [n for n, m in model.named_modules() if isinstance(m, nn.SyncBatchNorm) and m.training]
    if names:
        raise InputError(
            f"{names[0]} and {len(names) - 1} more norms are sync_batch, which several processes can train on CUDA "
            f"devices only, not on {device.type}: choose batch, group or frozen_batch (backbone.norm, head.fpn_norm, "
            "head.head_norm), or one process"
        )


@torch.no_grad()
def refresh_norms(
    model: nn.Module,
    batches: Iterable[Given],
    forward: Callable[[Given], object],
    mean: Callable[[Tensor], Tensor] = lambda sums: sums,
) -> None:
    """Give batch norms the mean and variance of all that reaches them in some batches ("precise BN").

    arXiv:2105.07576, section 3: the running statistics lag behind the weights, and see the last batches most. As there,
    each batch is normalised by its own statistics, so it is to be as large as in training; the variance is that of all
    values together, E[mean^2 + variance] - E[mean]^2 over batches of one size. All else in the model works as in
    evaluation, without dropout, and stays as it was; so do frozen norms, and those that nothing reached.

    forward: runs the model on a batch, in eval mode (`model.losses` does what training does). mean: that over processes
    of a float64 tensor on the CPU, where each process has batches of its own.
    """
    with ExitStack() as stack:
        norms = stack.enter_context(_training(model))
        model.eval()
        for norm in norms:
            norm.train()
        sums = [torch.zeros(3, norm.num_features, dtype=torch.float64) for norm in norms]
        # A compiled trunk does not look for hooks that it was compiled without.
        stack.enter_context(torch.compiler.set_stance("force_eager"))
        stack.enter_context(statistics_kept(model))
        stack.enter_context(seeded(0, next(model.parameters()).device))
        for norm, total in zip(norms, sums, strict=True):
            stack.callback(norm.register_forward_pre_hook(_adding_to(total)).remove)
        for batch in batches:
            forward(batch)
    if not norms:
        return
    shared = torch.split(mean(torch.cat(sums, dim=1)), [norm.num_features for norm in norms], dim=1)
    for norm, (count, total, squares) in zip(norms, shared, strict=True):
        if count[0] > 0:
            norm.running_mean.copy_(total / count)
            norm.running_var.copy_(squares / count - (total / count).square())


@contextmanager
def _training(model: nn.Module) -> Iterator[list[Any]]:
    """Yield the batch norms that training changes, of a model in training mode; after that it is in the mode it was."""
    before = model.training
    model.train()
    try:
        yield [m for m in model.modules() if isinstance(m, _BatchNorm) and m.training and m.track_running_stats]
    finally:
        model.train(before)


def _adding_to(sums: Tensor) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    """Return a hook that adds a norm's input (N, C, ...) to (3, C): number of values, their sum and that of squares."""

    def hook(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        values = inputs[0].to(torch.promote_types(inputs[0].dtype, torch.float32))
        if not values.numel():
            return
        both = torch.var_mean(values, dim=[0, *range(2, values.ndim)], correction=0)
        variance, mean = torch.stack(both).cpu().double()
        sums.add_(
            torch.stack([torch.ones_like(mean), mean, variance + mean.square()]), alpha=values.numel() / len(mean)
        )

    return hook
