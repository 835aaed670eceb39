"""The memory of large tensors stays with the process where that is asked for."""

import resource
import sys

import pytest
import torch

from vertebra.tools.memory import keep_freed_memory, map_large_tensors

LARGE = 64 * 2**20  # bytes, beyond what the C library keeps by itself
PAGE = resource.getpagesize()


def pages_asked_for() -> int:
    """Return the pages that the system had to give for a tensor, where there were some of its size just before."""
    for _ in range(5):
        torch.ones(LARGE, dtype=torch.uint8)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(LARGE, dtype=torch.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="for glibc's malloc")
def test_large_tensors_take_the_memory_of_those_before() -> None:
    assert keep_freed_memory()
    kept = pages_asked_for()
    assert map_large_tensors()
    assert kept < 0.05 * LARGE / PAGE
    assert pages_asked_for() > 0.9 * LARGE / PAGE
