"""The memory of large tensors stays with the process where that is asked for."""

import resource
import subprocess
import sys

import pytest

# In a process of its own: what the memory of this one looks like depends on all the tests before. The first tensors may
# each find a place of their own.
SCRIPT = """
import resource
import torch
from vertebra.tools import memory

assert memory.{function}()
for count in (20, 10):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(count):
        torch.ones({size}, dtype=torch.uint8)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
SIZE = 64 * 2**20  # bytes, beyond what the C library keeps by itself


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="for glibc's malloc")
@pytest.mark.parametrize(("function", "shares"), [("keep_freed_memory", (0, 0.05)), ("map_large_tensors", (0.9, 1.1))])
def test_the_pages_that_ten_large_tensors_ask_for(function: str, shares: tuple[float, float]) -> None:
    code = SCRIPT.format(function=function, size=SIZE)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    pages = 10 * SIZE / resource.getpagesize()
    assert shares[0] <= int(done.stdout) / pages <= shares[1]
