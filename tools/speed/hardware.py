"""What computes: its name, how many threads, and how fast it multiplies matrices at best."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter

import torch

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}

# Of /proc/cpuinfo, on x86 and on ARM: with one of these products of bfloat16 are instructions, not conversions.
BFLOAT16_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})

# Sides of the matrices to find the best rate with; larger ones follow while one product takes less than this.
SIDES, LONG = (512, 1024, 2048, 4096, 8192), 0.05


def machine(device: torch.device) -> str:
    """Return the name of what computes."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    names = _cpu_lines("model name")
    return names[0] if names else platform.processor() or platform.machine()


def _cpu_lines(*names: str) -> list[str]:
    """Return what /proc/cpuinfo has under these names, for each core; nothing where there is no such file."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    pairs = (line.split(":", 1) for line in lines if ":" in line)
    return [value.strip() for name, value in pairs if name.strip() in names]


def has_fast_bfloat16(device: torch.device) -> bool:
    """Say whether a device multiplies bfloat16 in hardware; a CPU that does not converts, and is slower than float32.

    A CPU has to have the instructions, and torch's oneDNN has to be built to use them.
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu":
        return True
    flags = _cpu_lines("flags", "Features")
    return knows_bfloat16(flags[0] if flags else "") and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def knows_bfloat16(flags: str) -> bool:
    """Say whether a CPU with these flags, as /proc/cpuinfo lists them, has instructions for bfloat16."""
    return not BFLOAT16_FLAGS.isdisjoint(flags.split())


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
