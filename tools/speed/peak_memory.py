"""The memory of a step at its peak, of each contestant in a process of its own."""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from ...backbones import InputError
from ..annotation_speed import apart
from .case import Case, given, make_images
from .contestants import contestant, entries, reference_of
from .hardware import threads
from .steps import STEPS


def check_peak(device: torch.device) -> None:
    """Refuse a device whose peak cannot be measured."""
    if device.type != "cuda" and (device.type != "cpu" or not sys.platform.startswith("linux")):
        raise InputError(f"the peak of memory on {device} ({sys.platform}) is not known here; leave out --memory")


def peaks(case: Case, step: str, number_of_threads: int) -> list[float]:
    """Return the peak of each contestant of a step in MB, in the rows' order."""
    check_peak(case.device)
    return [apart(peak, case, step, number, number_of_threads) for number in range(len(entries(case, step)))]


def peak(case: Case, step: str, number: int, number_of_threads: int) -> float:
    """Return what the second step of a contestant needs at its peak, in MB; call it in a fresh process.

    On CUDA that is what its tensors take (`torch.cuda.max_memory_allocated`). On the CPU it is resident memory over
    what the process had before there was a model, with libraries loaded: so weights, gradients and the optimiser's
    state count on both, and on the CPU also scratch space, and freed memory that the C library keeps. The second step,
    as the first makes what stays: gradients, the optimiser's state, buffers of kernels.
    """
    with threads(number_of_threads):
        _load_libraries(case.device)
        before = settled()
        one = contestant(
            case, step, entries(case, step)[number], reference := reference_of(case, step, make_images(case))
        )
        del reference
        one.memory()
        run = STEPS[step](one, *given(case, step))
        run()
        if case.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(case.device)
            run()
            return torch.cuda.max_memory_allocated(case.device) / 1e6
        return resident_peak(run) - before


def _load_libraries(device: torch.device) -> None:
    """Have what is loaded with the first convolution and the first gradient, so that it does not count."""
    layer = torch.nn.Conv2d(8, 8, 3).to(device)
    layer(torch.rand(1, 8, 32, 32, device=device)).sum().backward()


def resident_peak(run: Callable[[], object]) -> float:
    """Return the most resident memory that this process has while a call lasts, in MB."""
    settled()
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew (proc(5))
    run()
    return _status("VmHWM")


def settled() -> float:
    """Return the resident memory in MB once what was freed has gone back to the system."""
    gc.collect()
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):  # of glibc
        libc.malloc_trim(0)
    return _status("VmRSS")


def _status(name: str) -> float:
    """Return a size of /proc/self/status in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024 / 1e6
