"""The checkpoints of a run: which stay, which are good, and what is said where one cannot be written."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ...backbones import InputError
from ...backbones.tensor_files import RUN_CHECKPOINT
from .checkpoint import (
    OLDER,
    older_checkpoints,
    read_whole,
    save_checkpoint,
    scratch_beside,
    sweep,
    sync_folder,
    whole_step,
    write_checkpoint,
)

BEST = "best.pt"

_ROOM = "Make room (engine.keep=1 keeps fewer checkpoints)"
_RIGHTS = "Make the folder one that can be written to"
REMEDIES = {
    errno.ENOSPC: _ROOM,
    errno.EDQUOT: _ROOM,
    errno.EFBIG: "Raise the limit of the size of files (ulimit -f)",
    errno.EROFS: _RIGHTS,
    errno.EACCES: _RIGHTS,
    errno.EPERM: _RIGHTS,
}


class Keeper:
    """Writes the checkpoints of a run's folder; at every moment a whole one is there.

    `checkpoint.pt` is the newest, `checkpoints/step_N.pt` are the `keep` - 1 before it, `checkpoints/milestone_N.pt`
    stay always, `best.pt` is the best. The older ones are hard links, so that nothing is written twice. What cannot be
    written is an InputError; the checkpoints that were there stay as they were.
    """

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder = folder
        self.keep = keep
        self._newest = folder / RUN_CHECKPOINT
        # Damaged ones are no older ones to keep, and not to be named as whole.
        self._step = whole_step(self._newest)
        self._whole = self._step if self._step is not None else _first_whole(folder)

    def save(self, content: Mapping[str, Any], milestone: bool = False) -> None:
        """Write the newest checkpoint, and keep the one before it."""
        step = int(content["step"])
        with self._explained(self._newest, content), scratch_beside(self._newest) as scratch:
            write_checkpoint(scratch, content)
            if self.keep > 1 and self._step is not None:
                _also_as(self._newest, self._older("step", self._step))
            if milestone:
                _also_as(scratch, self._older("milestone", step))
            os.replace(scratch, self._newest)
            sync_folder(self.folder)
            self._step = self._whole = step
            self._prune(step)

    def save_best(self, content: Mapping[str, Any]) -> None:
        """Write the best checkpoint so far."""
        path = self.folder / BEST
        with self._explained(path, content):
            save_checkpoint(path, content)

    def _older(self, kind: str, step: int) -> Path:
        return self.folder / OLDER / f"{kind}_{step:08d}.pt"

    def _prune(self, step: int) -> None:
        """Remove the older checkpoints that are too many, and those of a future that the run has gone back before."""
        found = [path for path in older_checkpoints(self.folder) if path.match("step_*.pt")]
        before = [path for path in found if path < self._older("step", step)]
        for path in {*found} - {*before[: self.keep - 1]}:
            path.unlink(missing_ok=True)

    @contextmanager
    def _explained(self, path: Path, content: Mapping[str, Any]) -> Iterator[None]:
        """Begin without what killed saves have left, and turn what the system refuses into one line."""
        try:
            sweep(self.folder)
            sweep(self.folder / OLDER)
            yield
        except (OSError, RuntimeError) as error:
            refusal = _refusal(error)
            if refusal is None:
                raise
            there = next(folder for folder in (self.folder, *self.folder.parents) if folder.exists())
            size, free = _size(content) / 1e6, shutil.disk_usage(there).free / 1e6
            if self._whole is None:
                whole, again = "No older checkpoint is there", "start again"
            else:
                whole = f"The older checkpoint, of step {self._whole}, is whole"
                again = f"continue with `vertebra train --resume {self.folder}`"
            remedy = REMEDIES.get(refusal.errno or 0, "Mend that")
            raise InputError(
                f"{path} of step {content['step']} could not be written: {refusal.strerror or refusal} "
                f"(it takes {size:.1f} MB, {free:.1f} MB are free). {whole}. {remedy}, and {again}"
            ) from error


def newest_good(folder: Path, warn: Callable[[str], object]) -> dict[str, Any] | None:
    """Return the newest whole checkpoint of a run's folder; None where there is none at all.

    Each that is stepped over gets one warning with its name and what is wrong with it. Where none of them is whole it
    is an InputError: a run that has come far is not begun again unasked.
    """
    found = _all(folder)
    for path in found:
        try:
            return read_whole(path)
        except InputError as error:
            warn(f"{error}; it is stepped over")
    if found:
        raise InputError(
            f"none of the {len(found)} checkpoints in {folder} is whole; to begin again, remove them or choose another "
            "--output"
        )
    return None


def _all(folder: Path) -> list[Path]:
    """Return the checkpoints of a folder, newest first; the best, which may be from any time, last."""
    paths = (folder / RUN_CHECKPOINT, *older_checkpoints(folder), folder / BEST)
    return [path for path in paths if path.is_file()]


def _first_whole(folder: Path) -> int | None:
    steps = (whole_step(path) for path in _all(folder))
    return next((step for step in steps if step is not None), None)


def _also_as(path: Path, name: Path) -> None:
    """Give a file a second name, by a hard link where the file system has them, else by a copy."""
    name.parent.mkdir(exist_ok=True)
    with scratch_beside(name) as scratch:
        try:
            os.link(path, scratch)
        except OSError:
            shutil.copyfile(path, scratch)
            with open(scratch, "rb") as file:
                os.fsync(file.fileno())
        os.replace(scratch, name)
    sync_folder(name.parent)


def _refusal(error: BaseException | None) -> OSError | None:
    """Return the error of the system behind one of torch.save, whose archive complains of itself first."""
    while error is not None and not isinstance(error, OSError):
        error = error.__cause__ or error.__context__
    return error


def _size(content: Mapping[str, Any]) -> int:
    """Return how many bytes a checkpoint takes, by writing it to nowhere."""

    class Count:
        written = 0

        def write(self, part: bytes) -> int:
            self.written += len(part)
            return len(part)

        def flush(self) -> None:
            pass

    count = Count()
    torch.save(dict(content), count)  # type: ignore[arg-type]  # a file needs no more than this
    return count.written
