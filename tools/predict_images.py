"""From image files through a model to its findings: read ahead, in batches of one size, with a progress bar."""

from __future__ import annotations

import errno
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text
from torch import Tensor

from ..backbones import InputError
from .batches import ahead
from .data.image_list import ImageFile
from .data.images import own_names
from .engine.keeping import REMEDIES
from .engine.stopping import Interrupted, Stopping
from .findings import Findings
from .given_images import pixels_as_tensor
from .predictor import Predictor


@dataclass(frozen=True)
class Shot:
    """An image file that was read, and the name of its own files, without a suffix."""

    file: ImageFile
    name: str
    image: Tensor


class Speed(ProgressColumn):
    """How many images a second there are."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.1f} images/s", style="progress.data.speed")


@dataclass
class Prediction:
    """A model, and where its findings go; `left_out` counts the images that could not be taken.

    Each of these is named on standard error when it comes.
    """

    predictor: Predictor
    findings: Findings
    folder: Path
    batch_size: int
    console: Console
    left_out: int = field(default=0, init=False)

    def run(self, files: Sequence[ImageFile]) -> str:
        """Predict on image files; return what there is then, or nothing if no image could be taken."""
        done = 0
        with closing(self.findings), Stopping(self._stopped(0, len(files))) as stopping, _writing(self.folder):
            for shot, found in self.predictor.over(self._shots(files), lambda shot: shot.image, self.batch_size):
                if isinstance(found, InputError):
                    self._leave_out(f"image {shot.file.path}: {found}")
                    continue
                with stopping.noting():  # so that no file is left half-written
                    self.findings.add(shot.file, shot.name, shot.image, found)
                done += 1
                stopping.message = self._stopped(done, len(files))
                if stopping.asked:
                    raise Interrupted(stopping.message, stopping.asked)
            with stopping.noting():
                return self.findings.finish() if done else ""

    def _shots(self, files: Sequence[ImageFile]) -> Iterator[Shot]:
        """Yield the images that can be read."""

        def read(file: ImageFile, name: str) -> Shot | InputError:
            try:
                return Shot(file, name, pixels_as_tensor(file.read(self.predictor.files)))
            except InputError as error:
                return error

        columns = (TextColumn("predicting"), BarColumn(), MofNCompleteColumn(), Speed(), TimeRemainingColumn())
        jobs = zip(files, own_names(file.path for file in files), strict=True)
        with (
            Progress(*columns, console=self.console, disable=not self.console.is_terminal) as progress,
            closing(ahead(lambda job: read(*job), jobs, 2 * self.batch_size)) as shots,
        ):
            task = progress.add_task("", total=len(files))
            for shot in shots:
                if isinstance(shot, InputError):
                    self._leave_out(str(shot))
                else:
                    yield shot
                progress.advance(task)

    def _leave_out(self, reason: str) -> None:
        self.left_out += 1
        print(f"left out: {reason}", file=sys.stderr)

    def _stopped(self, done: int, count: int) -> str:
        return (
            f"stopped after {done} of {count} images; the file for all of them together is not written to {self.folder}"
        )


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Turn what the system refuses to write into what to do about it."""
    try:
        yield
    except OSError as error:
        refused = {**REMEDIES, errno.EEXIST: "It is a file", errno.ENOTDIR: "It is in a file, not in a folder"}
        if error.errno not in refused:
            raise
        raise InputError(
            f"{error.filename or folder}: {error.strerror}. {refused[error.errno]}; choose another --output, or mend it"
        ) from error
