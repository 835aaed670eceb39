"""Several processes that train one model, each on a GPU of its own; `torchrun` starts them, here or on many machines.

Collective operations of tensors on a GPU go over NCCL, of all else over gloo.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.distributed_c10d import Store
from torch.distributed.rendezvous import rendezvous

from ...backbones import InputError
from .lifeline import Lifeline

# How long processes wait for each other to be started, on machines that are slow to read Python's files.
START = timedelta(minutes=10)
# Later nothing has a limit: a process may wait for another's evaluation. That all still live is the lifeline's matter.
NO_LIMIT = timedelta(days=30)


@dataclass(frozen=True)
class Processes:
    """The processes of a run, seen by one of them: `rank`, from 0, among `count`, and `local_rank` on its machine.

    The methods that exchange something have to be called by all of them, in the same order.
    """

    rank: int
    local_rank: int
    count: int

    @property
    def main(self) -> bool:
        """Whether this is the process that prints and writes."""
        return self.rank == 0

    def device(self, device: torch.device) -> torch.device:
        """Return the device of this process, where the run's is `device`."""
        return torch.device("cuda", self.local_rank) if self.count > 1 and device.type == "cuda" else device

    def part(self, total: int) -> range:
        """Return which of `total` things are for this process: as many as for another, or one more."""
        return range(total * self.rank // self.count, total * (self.rank + 1) // self.count)

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum over all processes."""
        return self._reduced(values, dist.ReduceOp.SUM)

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean over all processes; of integers too."""
        return values if self.count == 1 else self.sum(values) / self.count

    def largest(self, values: Tensor) -> Tensor:
        """Return the largest of all processes' values, one by one."""
        return self._reduced(values, dist.ReduceOp.MAX)

    def _reduced(self, values: Tensor, operation: Any) -> Tensor:
        if self.count == 1:
            return values
        total = values.detach().clone()
        dist.all_reduce(total, operation)
        return total

    def gather(self, value: Any) -> list[Any] | None:
        """Return the values of all processes by rank, in the main one; None in the others."""
        if self.count == 1:
            return [value]
        values = [None] * self.count if self.main else None
        dist.gather_object(value, values)
        return values

    def wait(self) -> None:
        """Wait until all processes have come here."""
        if self.count > 1:
            dist.barrier()

    def share_buffers(self, model: nn.Module) -> None:
        """Give the model the main process's buffers: batch norm's statistics differ by the images that each has seen.

        Training does so before each step, but not after the last.
        """
        if self.count > 1:
            for buffer in model.buffers():
                dist.broadcast(buffer, 0)

    def parallel(self, model: nn.Module, device: torch.device) -> nn.Module:
        """Return the model to train: its gradients are means over processes, its weights those of the main one.

        Losses over all images of a step need `heads.normalisers.averaged_over(processes.mean)` around the model's call.
        """
        if self.count == 1:
            return model
        # Of a 1x1 convolution the two are the same values in the same places.
        warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
        gpu = [device] if device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(model, device_ids=gpu, gradient_as_bucket_view=True)


ALONE = Processes(rank=0, local_rank=0, count=1)


@contextmanager
def joined(device_name: str, expected: tuple[type[BaseException], ...] = ()) -> Iterator[Processes]:
    """Yield the processes that `torchrun` has started, connected with each other; ALONE without it.

    device_name: engine.device. Where one process fails, all end with one line that says which and why. An exception of
    the `expected` ones leaves the block in all processes alike, and is no failure.
    """
    processes = _started()
    if processes.count == 1:
        yield ALONE
        return
    backend = _backend(device_name, processes)
    store = _meet()
    lifeline = Lifeline(store.clone(), processes.rank, processes.count)
    try:
        dist.init_process_group(backend, store=store, rank=processes.rank, world_size=processes.count, timeout=NO_LIMIT)
        yield processes
    except expected as error:
        lifeline.leave(error)
        raise
    except BaseException as error:
        lifeline.tell(error)
        raise
    lifeline.leave()
    dist.destroy_process_group()


def _started() -> Processes:
    """Read what torchrun, or a job script in its place, says in the environment."""
    given = {name: os.environ.get(name, "") for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE")}
    if not given["RANK"] or not given["WORLD_SIZE"]:
        return ALONE
    missing = [name for name in ("LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name)]
    if missing and given["WORLD_SIZE"] != "1":
        raise InputError(
            f"the environment has RANK and WORLD_SIZE={given['WORLD_SIZE']} but no {', '.join(missing)}; start the "
            "processes with torchrun --nproc-per-node=N -m vertebra.tools.train …, or unset RANK for one process"
        )
    return Processes(int(given["RANK"]), int(given["LOCAL_RANK"] or 0), int(given["WORLD_SIZE"]))


def _backend(device_name: str, processes: Processes) -> str:
    """Return the backends of the collective operations; the process's GPU, where it has one, becomes the current."""
    kind, _, index = device_name.partition(":")
    if kind == "mps" or index or (kind == "auto" and torch.backends.mps.is_available()):
        raise InputError(
            f"engine.device={device_name!r}, but {processes.count} processes were started: each works on a GPU of its "
            "own, or on the CPU; say engine.device=cuda or engine.device=cpu"
        )
    if kind == "cpu" or not torch.cuda.is_available():
        return "gloo"
    there = torch.cuda.device_count()
    if processes.local_rank >= there:
        raise InputError(
            f"process {processes.rank} is number {processes.local_rank + 1} of its machine, which has {there} GPUs; "
            f"start torchrun with --nproc-per-node={there}"
        )
    torch.cuda.set_device(processes.local_rank)
    return "cpu:gloo,cuda:nccl"


def _meet() -> Store:
    """Wait for the other processes, and return the store that all see."""
    try:
        store, _, _ = next(rendezvous("env://", timeout=START))
    except (dist.DistError, TimeoutError) as error:
        place = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise InputError(
            f"the {os.environ['WORLD_SIZE']} processes did not find each other at {place} ({_one_line(error)}); see "
            "whether all were started, and whether that address can be reached from all machines"
        ) from error
    return store  # type: ignore[no-any-return]


def _one_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
