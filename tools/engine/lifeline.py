"""Whether all processes of a run still live: when one ends, all end at once, and say which and why.

An operation that all take part in waits for ever for a process that is gone. So a thread of each process beats in the
store by which they found each other, listens to the next process's beats, and ends its own process if it has to.
"""

from __future__ import annotations

import atexit
import json
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch.distributed as dist
from torch.distributed.distributed_c10d import Store

from ...backbones import InputError

# Seconds between beats. A process is taken for dead after so many beats missed; some of Python's own long calls, such
# as writing a large JSON document, stop all threads for seconds.
BEAT = 1.0
SILENCE = 20
# Seconds that a process waits at most for the others to stop too, which may be writing a checkpoint.
LEAVE = 600.0
# Seconds until what looks like a failure is taken for one: at a good end processes leave within moments of each other.
GRACE = 2.0


class Lifeline:
    """The beats of one process. `store`: a connection of its own, as that of another thread may be waiting."""

    def __init__(self, store: Store, rank: int, count: int) -> None:
        self._rank, self._count = rank, count
        self._store = store
        self._store.set(f"process/{rank}", json.dumps([socket.gethostname(), _machine(), os.getpid()]))
        self._next = (rank + 1) % count
        self._host, self._machine, self._pid = json.loads(self._store.get(f"process/{self._next}"))
        self._heard, self._missed = 0, 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="lifeline", daemon=True)
        self._thread.start()

    def leave(self, error: BaseException | None = None) -> None:
        """Wait for the others to leave too, and stop watching. error: what all leave for, if not for being done.

        Who is asked to stop may be the only one; after some time that is a failure like another.
        """
        began = time.monotonic()
        try:
            self._store.add("left", 1)
            while self._store.add("left", 0) < self._count:
                if error is not None and time.monotonic() > began + LEAVE:
                    self.tell(error)
                    return
                time.sleep(0.05)
            self._end()
            # The store may be process 0's, which therefore goes last.
            left = self._store.add("left", 1)
            while self._rank == 0 and left < 2 * self._count and time.monotonic() < began + LEAVE:
                time.sleep(0.01)
                left = self._store.add("left", 0)
        except RuntimeError:  # process 0 is gone, so there is nobody to wait for
            self._end()

    def _end(self) -> None:
        self._over.set()
        self._thread.join()

    def tell(self, error: BaseException) -> None:
        """Say to the others that this process ends, and why.

        Where the error is that another process is gone, that one is named instead and this process ends here; where
        another said the same before, this one ends without a word.
        """
        if _is_lost_contact(error):
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, signal.SIG_IGN)  # torchrun's; there is something to say before
            self._thread.join((SILENCE + 5) * BEAT)  # it ends this process as soon as it knows more
            raise InputError(f"the other processes can no longer be reached: {_told(error)}") from error
        self._end()
        cause = _told(error)
        try:
            first = self._record(self._rank, socket.gethostname(), cause)
        except RuntimeError:  # no store any more, hence nobody to tell
            return
        # The store may go with this process: the others have to read it before.
        atexit.register(time.sleep, 2 * BEAT)
        if first != self._line(self._rank, socket.gethostname(), cause) and first.endswith(f" ended: {cause}"):
            raise SystemExit(1) from error

    def _watch(self) -> None:
        with ThreadPoolExecutor(1, "lifeline") as worker:
            while not self._over.wait(BEAT):
                try:
                    # By a thread of its own, as a store on a machine without power does not answer at all.
                    failure = worker.submit(self._round).result(SILENCE * BEAT)
                except (RuntimeError, TimeoutError):
                    failure = "process 0 ended, or its machine: the store by which the processes met is gone"
                    if self._over.wait(GRACE):
                        return
                if failure is not None:
                    _end_here(failure)

    def _round(self) -> str | None:
        """Beat once, listen once, and return what is known to have ended the run."""
        self._store.add(f"beats/{self._rank}", 1)
        if self._store.check(["failure"]):
            return self._store.get("failure").decode()
        heard = self._store.add(f"beats/{self._next}", 0)
        self._missed = 0 if heard != self._heard else self._missed + 1
        self._heard = heard
        cause = self._death()
        if cause is None or self._over.wait(GRACE):
            return None
        return self._record(self._next, self._host, cause)

    def _death(self) -> str | None:
        """Return what ended the next process, if anything did."""
        if self._machine == _machine() and not _lives(self._pid):
            return "it is gone without a word: killed, for want of memory perhaps, or crashed"
        if self._missed >= SILENCE:
            return f"it gave no sign of life for {SILENCE * BEAT:.0f} s"
        return None

    def _record(self, rank: int, host: str, cause: str) -> str:
        """Record a failure if it is the first, and return the first."""
        return self._store.compare_set("failure", "", self._line(rank, host, cause)).decode()

    def _line(self, rank: int, host: str, cause: str) -> str:
        return f"process {rank} of {self._count} (host {host}) ended: {cause}"


def _told(error: BaseException) -> str:
    """Return an error as one line; an InputError says all by itself."""
    text = " ".join(str(error).split())
    return text if isinstance(error, InputError) else f"{type(error).__name__}: {text}".rstrip(": ")


def _is_lost_contact(error: BaseException) -> bool:
    """Say whether an operation of all processes failed; gloo's errors have no class of their own."""
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's: its number was given away again
        return False
    return True


def _machine() -> str:
    """Return what processes have in common that can see each other's numbers: containers of one host may not."""
    space = Path("/proc/self/ns/pid")
    return f"{socket.gethostname()} {space.stat().st_ino if space.exists() else ''}"


def _end_here(failure: str) -> None:
    """End this process and its workers, whatever it waits for."""
    print(f"\nerror: {failure}", file=sys.stderr, flush=True)
    time.sleep(4 * BEAT)  # so that the one that failed is the first to end: torchrun reports that as the root cause
    for child in multiprocessing.active_children():
        child.kill()
    os._exit(1)
