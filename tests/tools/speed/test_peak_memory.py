"""The peak is what a call held at most, whatever was freed before it."""

import sys
from collections.abc import Callable
from mmap import PAGESIZE, mmap

import pytest
import torch

from vertebra.backbones import InputError
from vertebra.tools.speed.case import Case
from vertebra.tools.speed.peak_memory import check_peak, peaks, resident_peak, settled

MakeCase = Callable[..., Case]

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


def fill(megabytes: int) -> None:
    """Have so much memory, each page of it written, and give it back to the system."""
    with mmap(-1, megabytes * 1_000_000) as memory:
        for page in range(0, len(memory), PAGESIZE):
            memory[page] = 1


@linux
def test_the_peak_is_that_of_the_call() -> None:
    fill(400)  # gone before it
    before = settled()

    def run() -> None:
        fill(100)
        fill(200)  # when the first is gone

    assert resident_peak(run) - before == pytest.approx(200, abs=15)


@pytest.mark.slow
@linux
def test_recomputing_takes_less_memory(tiny: MakeCase) -> None:
    """Trainable weights of 41 million take three times 4 bytes: themselves, their gradients, their momentum."""
    case = tiny(head="faster_rcnn", backbone="resnet50", size=(480, 640), steps=("train",), checkpointing=True)
    torchvisions, equal, ours, recomputed = peaks(case, "train", 1)
    assert min(torchvisions, equal, ours, recomputed) > 41e6 * 12 / 1e6
    assert recomputed < 0.8 * ours


def test_a_device_without_a_known_peak_is_named() -> None:
    with pytest.raises(InputError, match="peak of memory on mps"):
        check_peak(torch.device("mps"))
