"""What computes: how many threads, how long it takes, and how fast it multiplies matrices at best."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter

import torch

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}

# Sides of the matrices to find the best rate with; larger ones follow while one product takes less than this.
SIDES, LONG = (512, 1024, 2048, 4096, 8192), 0.05


@contextmanager
def threads(number: int | None) -> Iterator[int]:
    """Use so many threads on the CPU, or with None as many as torch does; yield their number."""
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield torch.get_num_threads()
    finally:
        torch.set_num_threads(before)


def seconds_of(run: Callable[[], object], device: torch.device) -> float:
    """Return how long a call takes, until the device has done it."""
    wait(device)
    start = perf_counter()
    run()
    wait(device)
    return perf_counter() - start


def wait(device: torch.device) -> None:
    """Wait until a device has done what it was told to do."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


@torch.no_grad()
def matrix_peak(dtype: torch.dtype, device: torch.device) -> float:
    """Return the best rate of a product of two square matrices, in operations a second (two for a multiply-add)."""
    best = 0.0
    for side in SIDES:
        a, b = (torch.rand(side, side, device=device).to(dtype) for _ in range(2))
        out = torch.empty_like(a)
        seconds = min(seconds_of(lambda a=a, b=b, out=out: torch.mm(a, b, out=out), device) for _ in range(4))  # type: ignore[misc]
        best = max(best, 2 * side**3 / seconds)
        if seconds > LONG:
            break
    return best
