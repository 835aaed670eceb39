"""Seconds, memory, and a process for each measurement."""

import os
import sys
import time

import pytest
import torch

from vertebra.backbones import InputError
from vertebra.tools.timing import Memory, in_fresh_process, seconds_of

CPU = torch.device("cpu")


def test_seconds_without_the_first_run() -> None:
    """The first takes longest, and does not count."""
    pauses = iter([0.3, 0.01, 0.05, 0.02])
    seconds = seconds_of(lambda: time.sleep(next(pauses)), CPU, repeats=3, enough=0)
    assert len(seconds) == 3
    assert all(0 <= took - pause < 0.1 for took, pause in zip(seconds, (0.01, 0.05, 0.02), strict=True))


def test_short_steps_run_more_often() -> None:
    assert len(seconds_of(lambda: time.sleep(0.01), CPU, repeats=2, enough=0.1)) in range(3, 11)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="resident memory is read from Linux's /proc")
def test_memory_at_its_most() -> None:
    memory = Memory(CPU)
    memory.restart()
    torch.ones(50_000_000)  # 200 MB, gone at once
    peak = memory.peak()
    assert peak is not None
    assert 195e6 < peak < 230e6


def test_a_process_of_its_own() -> None:
    assert in_fresh_process(os.getpid) != os.getpid()


def test_a_process_that_the_system_ends() -> None:
    with pytest.raises(InputError, match="ended by the system"):
        in_fresh_process(os._exit, 9)


def test_errors_come_back() -> None:
    with pytest.raises(ValueError, match=r"math domain error|nonnegative"):
        in_fresh_process(_root, -1.0)


def _root(value: float) -> float:
    import math

    return math.sqrt(value)
