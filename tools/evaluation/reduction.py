"""What several processes of torch.distributed have each counted or found, brought together."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def summed(counts: Tensor) -> Tensor:
    """Return the sum over the processes; the same where there is only this one."""
    if not _several():
        return counts
    device = torch.device("cuda") if dist.get_backend() == "nccl" else torch.device("cpu")
    total = counts.to(device, copy=True)
    dist.all_reduce(total)
    return total.to(counts.device)


def gathered(found: Any) -> list[Any]:
    """Return what all processes have found, by rank, in the first of them; in the others what each itself has."""
    if not _several():
        return [found]
    everything = [None] * dist.get_world_size() if dist.get_rank() == 0 else None
    dist.gather_object(found, everything)
    return everything or [found]


def _several() -> bool:
    return dist.is_available() and dist.is_initialized()
