"""What a run leaves to read: JSON lines, TensorBoard, and a live line in the terminal."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column
from torch import Tensor

from ...backbones import InputError
from .board import Board, Whole
from .keeping import REMEDIES
from .loop import StepReport

Record = dict[str, Any]

# From which share of the time on it is worth saying that data are waited for.
WORTH_SAYING = 0.05


class RunLog:
    """Writes records to `log.jsonl` and scalars to `tensorboard/` in a run's folder; records after `start` are cut.

    evaluations: the records without a `loss`, of before and of now. A full disk, and the like, is an InputError.
    """

    def __init__(self, folder: Path, start: int) -> None:
        self.folder = folder
        path = folder / "log.jsonl"
        with self._explained(path):
            kept, length = _kept(path, start)
            if path.exists():
                os.truncate(path, length)  # at once, so that a kill leaves one log or the other
            self._file = path.open("ab", buffering=0)
        with self._explained(folder / "tensorboard"):
            self._board = Board(folder / "tensorboard", start)
        self.evaluations = [record for record in kept if "loss" not in record]

    def write(self, step: int, record: Mapping[str, Any]) -> None:
        """Write one record; its numbers go to TensorBoard too."""
        line: Record = {"step": step, **record}
        with self._explained(self.folder / "log.jsonl"):
            Whole(self._file).write(f"{json.dumps(line)}\n".encode())
        with self._explained(self.folder / "tensorboard"):
            self._board.scalars(step, _scalars(record))
        if "loss" not in line:
            self.evaluations.append(line)

    def has(self, step: int, key: str) -> bool:
        """Whether there is an evaluation of that step with such a key."""
        return any(record["step"] == step and key in record for record in self.evaluations)

    def pictures(self, step: int, name: str, picture: Tensor) -> None:
        """Show a picture (3, H, W), uint8 RGB, in TensorBoard."""
        with self._explained(self.folder / "tensorboard"):
            self._board.picture(step, name, picture)

    def close(self) -> None:
        self._file.close()
        self._board.close()

    @contextmanager
    def _explained(self, path: Path) -> Iterator[None]:
        """Turn what the system refuses into one line."""
        try:
            yield
        except OSError as error:
            free = shutil.disk_usage(self.folder).free / 1e6
            remedy = REMEDIES.get(error.errno or 0, "Mend that")
            raise InputError(
                f"{path} could not be written: {error.strerror} ({free:.1f} MB are free). The run's checkpoints are "
                f"whole. {remedy}, and continue with `vertebra train --resume {self.folder}`"
            ) from error


class NoLog:
    """The log of a process that leaves it to another one."""

    def __init__(self) -> None:
        self.evaluations: list[Record] = []

    def write(self, step: int, record: Mapping[str, Any]) -> None:
        pass

    def has(self, step: int, key: str) -> bool:
        return False

    def pictures(self, step: int, name: str, picture: Tensor) -> None:
        pass

    def close(self) -> None:
        pass


def _kept(path: Path, start: int) -> tuple[list[Record], int]:
    """Return the records of a log up to a step, and how many bytes they take.

    Steps only grow in a log, so they are its beginning. A line that a kill cut short ends it, too.
    """
    kept: list[Record] = []
    length = 0
    for line in path.read_bytes().splitlines(keepends=True) if path.exists() else ():
        try:
            record = json.loads(line)
        except ValueError:
            break
        if not line.endswith(b"\n") or record["step"] > start:
            break
        kept.append(record)
        length += len(line)
    return kept, length


def _scalars(record: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    for key, value in record.items():
        if isinstance(value, Mapping):
            yield from _scalars(value, f"{prefix}{key}/")
        else:
            yield f"{prefix}{key}", float(value)


class Terminal:
    """A progress bar with losses, speed, memory and time left; plain lines where there is no terminal.

    opening: what to say until the first step is done, where that takes long.
    """

    def __init__(self, console: Console, total: int, start: int, every: int, opening: str = "") -> None:
        self.console = console
        self.total = total
        self.every = every
        self.opening = opening
        self.progress = Progress(
            TextColumn("step {task.completed}/{task.total}"),
            BarColumn(bar_width=10),
            TimeRemainingColumn(),
            TextColumn("left "),
            # Last, and cut where the terminal is narrow: the time that is left is what one looks for.
            TextColumn("{task.description}", table_column=Column(ratio=1, no_wrap=True)),
            console=console,
            disable=not console.is_terminal,
            expand=True,
        )
        self.task = self.progress.add_task(opening or "warming up", total=total, completed=start)

    def __enter__(self) -> Terminal:
        self.progress.start()
        if self.opening and not self.console.is_terminal:
            self.console.print(self.opening, highlight=False, soft_wrap=True)
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def show(self, report: StepReport) -> None:
        """Show one step; in plain lines each `every` steps and the last."""
        text = described(report)
        self.progress.update(self.task, completed=report.step, description=text)
        if not self.console.is_terminal and (report.step % self.every == 0 or report.step == self.total):
            remaining = self.progress.tasks[0].time_remaining
            self.console.print(
                f"step {report.step}/{self.total}  {text}  left {_clock(remaining)}", highlight=False, soft_wrap=True
            )


def described(report: StepReport) -> str:
    """Return a step in a line; that data were waited for is said where it is a share worth saying."""
    parts = [
        f"loss {report.loss:.3f}",
        f"lr {report.learning_rate:.2g}",
        f"{report.images_per_second:.1f} images/s",
        f"waiting {report.waiting:.0%}" if report.waiting > WORTH_SAYING else "",
        f"{report.memory / 1e9:.1f} GB",
    ]
    return "  ".join(filter(None, parts))


def _clock(seconds: float | None) -> str:
    if seconds is None:
        return "?"
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"
