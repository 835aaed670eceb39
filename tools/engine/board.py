"""TensorBoard's event files, written at once: an error of the disk then is the writer's, not that of a thread."""

from __future__ import annotations

import io
import os
import socket
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import Tensor


class Board:
    """Appends events to a new file in a folder; those after step `start` that are there already are no longer shown."""

    def __init__(self, folder: Path, start: int) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._event: Any = Event
        self._summary: Any = Summary
        folder.mkdir(parents=True, exist_ok=True)
        # Files are read in the order of their names, which has to be that of their making within a second, too.
        number = len(list(folder.iterdir()))
        name = f"events.out.tfevents.{int(time.time()):010d}.{number:06d}.{socket.gethostname()}.{os.getpid()}"
        self._file = (folder / name).open("wb", buffering=0)
        self._records: Any = RecordWriter(Whole(self._file))
        self._write(Event(wall_time=time.time(), step=start + 1, file_version="brain.Event:2"))
        # Hides what a run that was killed wrote after the step that it is continued from.
        self._write(
            Event(wall_time=time.time(), step=start + 1, session_log=SessionLog(status=SessionLog.SessionStatus.START))
        )

    def scalars(self, step: int, values: Iterable[tuple[str, float]]) -> None:
        """Write values of a step, by their names."""
        found = [self._summary.Value(tag=name, simple_value=value) for name, value in values]
        self._write(self._event(wall_time=time.time(), step=step, summary=self._summary(value=found)))

    def picture(self, step: int, name: str, picture: Tensor) -> None:
        """Write a picture (3, H, W), uint8 RGB."""
        from PIL import Image

        _, height, width = picture.shape
        encoded = io.BytesIO()
        Image.fromarray(picture.permute(1, 2, 0).numpy()).save(encoded, "PNG")
        image = self._summary.Image(height=height, width=width, colorspace=3, encoded_image_string=encoded.getvalue())
        found = [self._summary.Value(tag=name, image=image)]
        self._write(self._event(wall_time=time.time(), step=step, summary=self._summary(value=found)))

    def close(self) -> None:
        self._file.close()

    def _write(self, event: Any) -> None:
        self._records.write(event.SerializeToString())


class Whole:
    """A file without a buffer, of which each write is done when it returns, or raises."""

    def __init__(self, file: Any) -> None:
        self.file = file

    def write(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            rest = rest[self.file.write(rest) :]
