"""What a processor is called, and whether it is fast in bfloat16."""

from __future__ import annotations

import logging
import platform
from functools import cache
from pathlib import Path

import torch

# Of /proc/cpuinfo, on x86 and on ARM: with one of these products of bfloat16 are instructions, not conversions.
BFLOAT16_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})


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


@cache
def tell_of_slow_bfloat16(device: torch.device) -> None:
    """Warn, once, where bfloat16 is slower than float32."""
    if not has_fast_bfloat16(device):
        logging.getLogger("vertebra").warning(
            "%s has no instructions for bfloat16, which is slower on it than float32", machine(device)
        )
