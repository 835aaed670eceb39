"""What a run leaves to read: JSON lines, TensorBoard, and a live line in the terminal."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from .loop import StepReport


class RunLog:
    """Writes records to `log.jsonl` and scalars to `tensorboard/` in a run's folder; records after `start` are cut."""

    def __init__(self, folder: Path, start: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        path = folder / "log.jsonl"
        kept = [line for line in _lines(path) if json.loads(line)["step"] <= start]
        path.write_text("".join(kept))
        self._file: TextIO = path.open("a")
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=start + 1 if start else None)

    def write(self, step: int, record: Mapping[str, Any]) -> None:
        """Write one record; its numbers go to TensorBoard too."""
        self._file.write(json.dumps({"step": step, **record}) + "\n")
        self._file.flush()
        for name, value in _scalars(record):
            self._board.add_scalar(name, value, step)

    def close(self) -> None:
        self._file.close()
        self._board.close()


def _lines(path: Path) -> list[str]:
    """Return the whole lines of the log; a line that a kill cut short has no end and is left out."""
    if not path.exists():
        return []
    return [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]


def _scalars(record: Mapping[str, Any], prefix: str = "") -> list[tuple[str, float]]:
    found = []
    for key, value in record.items():
        if isinstance(value, Mapping):
            found += _scalars(value, f"{prefix}{key}/")
        else:
            found.append((f"{prefix}{key}", float(value)))
    return found


class Terminal:
    """A progress bar with loss, learning rate, images/s and time left; plain lines where there is no terminal."""

    def __init__(self, console: Console, total: int, start: int, every: int) -> None:
        self.console = console
        self.total = total
        self.every = every
        self.progress = Progress(
            TextColumn("step {task.completed}/{task.total}"),
            BarColumn(),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self.task = self.progress.add_task("warming up", total=total, completed=start)

    def __enter__(self) -> Terminal:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def show(self, report: StepReport) -> None:
        """Show one step; in plain lines each `every` steps and the last."""
        text = f"loss {report.loss:.3f}  lr {report.learning_rate:.2g}  {report.images_per_second:.1f} images/s"
        self.progress.update(self.task, completed=report.step, description=text)
        if not self.console.is_terminal and (report.step % self.every == 0 or report.step == self.total):
            remaining = self.progress.tasks[0].time_remaining
            self.console.print(f"step {report.step}/{self.total}  {text}  left {_clock(remaining)}")


def _clock(seconds: float | None) -> str:
    if seconds is None:
        return "?"
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"
