"""Seconds and memory of a step, measured in a process that has done nothing else before."""

from __future__ import annotations

import contextlib
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from time import perf_counter
from typing import Any, TypeVar

import torch

from ..backbones import InputError
from .speed.hardware import wait

T = TypeVar("T")

# A short step is run until its runs have taken so many seconds, or are so many of them.
ENOUGH, MOST = 1.0, 30


def seconds_of(
    run: Callable[[], object], device: torch.device, repeats: int, enough: float = ENOUGH
) -> tuple[float, ...]:
    """Return the seconds of each of `repeats` runs, or of more (MOST) until they have taken `enough` seconds.

    A first one, to warm up, does not count. A GPU is waited for.
    """
    run()
    seconds: list[float] = []
    while len(seconds) < repeats or (sum(seconds) < enough and len(seconds) < MOST):
        wait(device)
        start = perf_counter()
        run()
        wait(device)
        seconds.append(perf_counter() - start)
    return tuple(seconds)


class Memory:
    """The memory that a process takes from here on, at its most: on a GPU what torch has given out, else resident.

    Of resident memory, pages of files (libraries, of which more and more are read in) do not count.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._before = _resident().get("RssAnon", 0)

    def restart(self) -> None:
        """Forget how much it was at most; it still counts from where it began."""
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        with contextlib.suppress(OSError):  # not every system lets a process do so: then building the model counts too
            Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins anew; Linux's proc_pid_clear_refs(5)

    def peak(self) -> int | None:
        """Return bytes; None where neither is known (CPUs of other systems than Linux, other accelerators)."""
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device)
        now = _resident()
        if self._device.type != "cpu" or "RssAnon" not in now:
            return None
        return now["VmHWM"] - now["RssFile"] - self._before


def _resident() -> dict[str, int]:
    """Return in bytes what Linux says of this process: VmHWM (the most), RssAnon and RssFile."""
    status = Path("/proc/self/status")
    lines = [line.split() for line in status.read_text().splitlines()] if status.exists() else []
    return {line[0].rstrip(":"): 1024 * int(line[1]) for line in lines if line[-1:] == ["kB"]}


def in_fresh_process(function: Callable[..., T], *arguments: Any) -> T:
    """Return what a function of a module returns in a process of its own, which begins with torch imported.

    One that the system ends, as it does where memory is short, is an InputError.
    """
    # Forked from a server that has only imported: each starts in a moment, and none has another's memory or threads.
    there = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if "forkserver" in there else "spawn")
    if isinstance(context, multiprocessing.context.ForkServerContext):
        # All that any measurement of a model needs: what the server has not imported, each process would.
        context.set_forkserver_preload([f"{__package__}.model_costs"])
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        try:
            return pool.submit(function, *arguments).result()
        except BrokenProcessPool as error:
            raise InputError("the process that measured was ended by the system, as where memory is short") from error
