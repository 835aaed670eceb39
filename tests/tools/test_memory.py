"""The memory of large tensors stays with the process where that is asked for."""

import resource
import subprocess
import sys

import pytest

# In a process of its own: what the memory of this one looks like depends on all the tests before.
SCRIPT = """
import resource
import torch
from vertebra.tools.memory import keep_freed_memory, map_large_tensors

def pages_asked_for():
    for _ in range(5):
        torch.ones(64 * 2**20, dtype=torch.uint8)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(64 * 2**20, dtype=torch.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

assert keep_freed_memory()
kept = pages_asked_for()
assert map_large_tensors()
print(kept, pages_asked_for())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="for glibc's malloc")
def test_large_tensors_take_the_memory_of_those_before() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True)
    kept, mapped = map(int, done.stdout.split())
    whole = 64 * 2**20 / resource.getpagesize()
    assert kept < 0.05 * whole
    assert mapped > 0.9 * whole
