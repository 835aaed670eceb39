"""What is said of the machine."""

import time

import torch

from vertebra.tools.speed.hardware import matrix_peak


def test_the_peak_is_no_less_than_a_product_reaches() -> None:
    """Of side 512, timed here; with room for what else the machine does meanwhile."""
    a = torch.rand(512, 512)
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        a @ a
        seconds.append(time.perf_counter() - start)
    assert matrix_peak(torch.float32, torch.device("cpu")) > 0.3 * 2 * 512**3 / min(seconds)
