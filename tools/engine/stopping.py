"""Answers to the signals that ask a run to stop."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

# Ctrl-C, a batch system that wants its machine back, and Slurm's notice that it soon will.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class Interrupted(Exception):
    """The run was asked to stop, and can be resumed. status: the exit status that tells which signal asked."""

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.status = 128 + number


class Stopping:
    """While it is entered, a signal to stop is noted inside of `noting`, and raises Interrupted outside.

    A second Ctrl-C is a KeyboardInterrupt, at once. message: what to say of an interruption outside of `noting`.
    """

    def __init__(self, message: str) -> None:
        self.message = message
        self.asked: int | None = None
        self._noting = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Stopping:
        try:
            self._before = {number: signal.signal(number, self._answer) for number in SIGNALS}
        except ValueError:  # not in the main thread, where signals do not arrive
            self._before = {}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, answer in self._before.items():
            signal.signal(number, answer)

    @contextmanager
    def noting(self) -> Iterator[None]:
        """Note signals, for steps and checkpoints to be done in peace."""
        self._noting = True
        try:
            yield
        finally:
            self._noting = False

    def _answer(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.asked is not None:
            raise KeyboardInterrupt
        self.asked = number
        if not self._noting:
            raise Interrupted(self.message, number)
