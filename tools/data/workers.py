"""Processes that load samples, each with a pipe of its own: one that is killed is noticed, and holds up no other."""

from __future__ import annotations

import atexit
import os
import signal
import socket
import threading
import traceback
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass
from multiprocessing import parent_process
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from typing import Any, Generic, Protocol, TypeVar

import torch
import torch.multiprocessing  # tensors then go between processes as shared memory

from ...backbones import InputError
from ..memory import keep_freed_memory

Item_co = TypeVar("Item_co", covariant=True)
Item = TypeVar("Item")

# How many batches each process is given ahead.
AHEAD = 2
# How long, in seconds, a process may take to end by itself.
PATIENCE = 2.0
# What a process notes as its position while it has none.
IDLE = -1

# The main process answers these, and needs its workers until it has saved.
IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)

# What is behind the signal that ended a worker, and what to do; `{workers}` is how many there are.
CAUSES = {
    signal.SIGKILL: "most likely the system ran out of memory; set engine.workers to fewer than {workers}",
    signal.SIGBUS: "most likely shared memory is full; make /dev/shm larger, or set engine.workers=0",
    signal.SIGSEGV: "the decoder crashed; look whether that file is sound, and leave it out if not",
}


class Source(Protocol[Item_co]):
    """What samples are loaded from, by their position."""

    def __getitem__(self, position: int) -> Item_co: ...

    def describe(self, position: int) -> str:
        """Return which sample that is, for messages."""
        ...


@dataclass(frozen=True)
class Failure:
    """An error in a worker that is not a sample's: its traceback."""

    text: str


class Workers(Generic[Item]):
    """Processes that load batches in turn: batch `i` comes from worker `i % count`."""

    def __init__(self, source: Source[Item], batches: Sequence[Sequence[int]], count: int) -> None:
        context: BaseContext = torch.multiprocessing.get_context()
        self.source = source
        self.batches = batches
        # Which position each is at; raw, as a lock would stay held by a worker that is killed.
        self.positions: Any = context.RawArray("q", [IDLE] * count)
        self.pipes: list[Connection] = []
        self.processes: list[Any] = []
        # At exit before multiprocessing's own end of its children, which waits for them without limit.
        atexit.register(self.close)
        # Workers begin without these signals: what the main process answers them with is not for them to do.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, IGNORED)
        try:
            for number in range(count):
                ours, theirs = context.Pipe()
                process = context.Process(  # type: ignore[attr-defined]
                    target=_serve, args=(source, number, theirs, self.positions), daemon=True
                )
                process.start()
                theirs.close()  # ours reads to the end once the worker is gone, even from within a message
                self.pipes.append(ours)
                self.processes.append(process)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        for i in range(min(AHEAD * count, len(batches))):
            self._ask(i)

    def receive(self, i: int) -> list[Item]:
        """Return the samples of batch `i`; batches are to be received in order."""
        worker = i % len(self.processes)
        try:
            found = self.pipes[worker].recv()
        except (EOFError, OSError) as error:
            self.processes[worker].join(PATIENCE)
            if self.processes[worker].is_alive():
                raise
            raise self._ended(worker) from error
        if isinstance(found, Failure):
            raise RuntimeError(f"loading failed in a worker:\n{found.text}")
        if i + AHEAD * len(self.processes) < len(self.batches):
            self._ask(i + AHEAD * len(self.processes))
        return list(found)

    def close(self) -> None:
        """End the processes; one that does not end by itself is killed, for nothing else depends on it."""
        atexit.unregister(self.close)
        for pipe in self.pipes:
            with suppress(OSError), socket.socket(fileno=os.dup(pipe.fileno())) as end:
                end.shutdown(socket.SHUT_RDWR)  # unlike closing it, also where another process has a copy of it
        for process in self.processes:
            process.join(PATIENCE)
            if process.is_alive():
                process.kill()
                process.join(PATIENCE)

    def _ask(self, i: int) -> None:
        worker = i % len(self.processes)
        try:
            self.pipes[worker].send(list(self.batches[i]))
        except OSError as error:
            self.processes[worker].join(PATIENCE)
            raise self._ended(worker) from error

    def _ended(self, worker: int) -> InputError:
        """Return the story of a worker that has ended before its time."""
        code, position = self.processes[worker].exitcode, self.positions[worker]
        killed = code is not None and code < 0
        how = f"was ended by {signal.Signals(-code).name}" if killed else f"ended by itself with status {code}"
        cause = CAUSES.get(-code) if killed else None
        advice = cause or "set engine.workers=0 to load in the main process and see why"
        where = "while it waited" if position == IDLE else f"while it loaded {self.source.describe(position)}"
        count = len(self.processes)
        return InputError(f"worker {worker + 1} of {count} {how} {where}: {advice.format(workers=count)}")


def load_batches(
    source: Source[Item], batches: Sequence[Sequence[int]], workers: int, finish: Callable[[list[Item]], list[Item]]
) -> Generator[list[Item], None, None]:
    """Yield the samples of each batch of positions, in order; with no workers, the calling process loads them.

    `finish` is done to each batch of a worker, by a thread, while the batch before it is worked on. A worker that is
    killed is an InputError that names the sample that it was at.
    """
    if not workers or not batches:
        for positions in batches:
            yield [source[position] for position in positions]
        return
    pool = Workers(source, batches, min(workers, len(batches)))

    def arrive(i: int) -> list[Item]:
        return finish(pool.receive(i))

    with ThreadPoolExecutor(1) as thread, closing(pool):  # the pool first: the thread may be waiting for it
        coming = thread.submit(arrive, 0)
        for following in range(1, len(batches)):
            batch = coming.result()
            coming = thread.submit(arrive, following)
            yield batch
        yield coming.result()


def _serve(source: Source[Any], number: int, pipe: Connection, positions: Any) -> None:
    """Answer each list of positions with their samples, until the main process has closed the pipe, or is gone."""
    import cv2

    threading.Thread(target=_leave_with_main, daemon=True).start()
    for ignored in IGNORED:
        signal.signal(ignored, signal.SIG_IGN)
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    keep_freed_memory()  # else each sample's pixels come as fresh pages: a fifth of the time
    try:
        while True:
            asked = pipe.recv()
            pipe.send(_loaded(source, asked, number, positions))
            positions[number] = IDLE
    except (EOFError, OSError):
        os._exit(0)  # nothing is left to be told to anyone


def _leave_with_main() -> None:
    """End this process with the main one. The pipe does not tell: forked processes have copies of both its ends."""
    main = parent_process()
    assert main is not None
    main.join()
    os._exit(0)


def _loaded(source: Source[Any], asked: Sequence[int], number: int, positions: Any) -> list[Any] | Failure:
    samples = []
    try:
        for position in asked:
            positions[number] = position
            samples.append(source[position])
    except Exception:
        return Failure(traceback.format_exc())
    return samples
