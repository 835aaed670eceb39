"""Processes that load samples: what becomes of them, and of those who wait, when something goes wrong."""

import faulthandler
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

import vertebra
from vertebra.tools.data.workers import load_batches


@dataclass
class Numbers:
    """Position `i` is a tensor of that number, after `at(i)`."""

    at: Callable[[int], object] = int
    length: int = 1

    def __getitem__(self, position: int) -> Tensor:
        self.at(position)
        return torch.full((self.length,), position)

    def describe(self, position: int) -> str:
        return f"number {position}"


def die(number: int) -> Callable[[int], object]:
    """At position 5."""

    def at(position: int) -> None:
        if position == 5:
            faulthandler.disable()  # pytest's, which would tell
            os.kill(os.getpid(), number)

    return at


def loaded(source: Any, workers: int, batches: int = 6, finish: Any = list) -> Iterator[list[Tensor]]:
    return load_batches(source, [[2 * i, 2 * i + 1] for i in range(batches)], workers, finish)


@pytest.fixture(autouse=True)
def _no_children_left() -> Iterator[None]:
    yield
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("workers", [0, 1, 3, 20])
def test_all_come_in_order(workers: int) -> None:
    found = list(loaded(Numbers(), workers))
    assert [[int(sample) for sample in batch] for batch in found] == [[2 * i, 2 * i + 1] for i in range(6)]
    assert list(loaded(Numbers(), workers, batches=0)) == []


def test_what_is_done_to_each_batch() -> None:
    found = list(loaded(Numbers(), 2, finish=lambda batch: [sample + 0.5 for sample in batch]))
    assert [float(batch[0]) for batch in found] == [0.5, 2.5, 4.5, 6.5, 8.5, 10.5]


@pytest.mark.parametrize(
    ("number", "told"),
    [
        (signal.SIGKILL, r"worker 1 of 2 was ended by SIGKILL while it loaded number 5: .*memory.*fewer than 2"),
        (signal.SIGBUS, r"SIGBUS while it loaded number 5: .*/dev/shm"),
        (signal.SIGSEGV, r"SIGSEGV while it loaded number 5: .*whether that file is sound"),
        (signal.SIGABRT, r"SIGABRT while it loaded number 5: set engine\.workers=0"),
    ],
)
def test_a_worker_that_is_killed_names_its_sample(number: int, told: str) -> None:
    with pytest.raises(vertebra.InputError, match=told):
        list(loaded(Numbers(die(number)), 2))


def test_a_worker_that_ends_by_itself() -> None:
    source = Numbers(lambda position: os._exit(3) if position == 5 else None)
    with pytest.raises(
        vertebra.InputError, match="worker 1 of 1 ended by itself with status 3 while it loaded number 5"
    ):
        list(loaded(source, 1))


def test_a_worker_that_is_killed_within_a_message() -> None:
    """Its batch is more than a pipe holds, so it is killed while it sends; nobody may wait for the rest."""

    class Long(Numbers):
        def __getitem__(self, position: int) -> Any:
            return bytes(10_000_000)

    batches = loaded(Long(), 1)
    next(batches)
    (worker,) = multiprocessing.active_children()
    time.sleep(0.3)  # the one after next is on its way by now
    os.kill(worker.pid or 0, signal.SIGKILL)
    began = time.monotonic()
    with pytest.raises(vertebra.InputError, match="SIGKILL while it"):
        list(batches)
    assert time.monotonic() - began < 5


def test_an_error_of_ours_comes_with_its_traceback() -> None:
    source = Numbers(lambda position: [][position])
    with pytest.raises(RuntimeError, match=r"(?s)loading failed in a worker:\nTraceback.*IndexError"):
        list(loaded(source, 2))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_workers_leave_to_the_main_process_what_it_answers(number: int) -> None:
    batches = loaded(Numbers(), 2)
    next(batches)
    for worker in multiprocessing.active_children():
        os.kill(worker.pid or 0, number)
    assert len(list(batches)) == 5


def test_a_worker_that_hangs_is_not_waited_for() -> None:
    batches = loaded(Numbers(lambda position: time.sleep(60) if position == 5 else None), 2)
    next(batches)
    began = time.monotonic()
    batches.close()  # type: ignore[attr-defined]
    assert time.monotonic() - began < 10


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended, but that nobody has asked for, does not."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def gone(pids: list[int]) -> bool:
    """Whether they end within a while."""
    began = time.monotonic()
    while any(map(alive, pids)) and time.monotonic() - began < 20:
        time.sleep(0.02)
    return not any(map(alive, pids))


def load_and_tell(pipe: Any) -> None:
    """Load something that takes long, and tell which processes do it."""
    batches = loaded(Numbers(lambda position: time.sleep(60) if position >= 5 else None), 3)
    next(batches)
    pipe.send([child.pid for child in multiprocessing.active_children()])
    next(batches)
    next(batches)


linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


@linux
def test_workers_go_with_a_main_process_that_is_killed() -> None:
    fork = multiprocessing.get_context("fork")
    ours, theirs = fork.Pipe()
    main = fork.Process(target=load_and_tell, args=(theirs,))
    main.start()
    workers = ours.recv()
    assert len(workers) == 3
    assert all(map(alive, workers))
    main.kill()
    main.join()
    assert gone(workers)


PROGRAM = """
import multiprocessing, time
from vertebra.tools.data.workers import load_batches

class Slow:
    def __getitem__(self, position):
        time.sleep(60 * (position > 3))
        return position
    def describe(self, position):
        return ""

batches = load_batches(Slow(), [[i] for i in range(50)], 3, list)
next(batches)
print(*(child.pid for child in multiprocessing.active_children()), flush=True)
"""


@linux
@pytest.mark.slow
@pytest.mark.parametrize(("end", "status"), [("raise SystemExit(7)", 7), ("1 / 0", 1), ("", 0)])
def test_workers_go_with_the_main_process(end: str, status: int) -> None:
    """Also one that has closed nothing."""
    command = [sys.executable, "-c", PROGRAM + end]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    workers = [int(pid) for pid in done.stdout.split()]
    assert len(workers) == 3
    assert gone(workers)
    assert done.returncode == status
