"""Files that are written bit by bit, so that nothing grows in memory, and are there whole or not at all."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO


class WholeFile:
    """A text file under another, hidden name until it is kept; begun, with its folder, when it is first written to."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._scratch = path.with_name(f".{path.name}.part")
        self._file: TextIO | None = None

    def write(self, text: str) -> int:
        if self._file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._scratch.open("w", encoding="utf-8", newline="")
        return self._file.write(text)

    def keep(self) -> None:
        """End the file, in place of one that was there; it must have been begun."""
        assert self._file is not None
        self._file.close()
        os.replace(self._scratch, self.path)
        self._file = None

    def close(self) -> None:
        """Leave nothing of a file that was not kept."""
        if self._file is not None:
            self._file.close()
            self._scratch.unlink(missing_ok=True)
            self._file = None


class JsonList:
    """A JSON file that is one list, with an item in each line."""

    def __init__(self, path: Path) -> None:
        self._file = WholeFile(path)
        self.count = 0

    def extend(self, items: Iterable[Mapping[str, Any]]) -> None:
        for item in items:
            self._file.write((",\n" if self.count else "[\n") + json.dumps(item))
            self.count += 1

    def keep(self) -> None:
        self._file.write("\n]\n" if self.count else "[]\n")
        self._file.keep()

    def close(self) -> None:
        self._file.close()


class Table:
    """A CSV file with a line of titles."""

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        self._file = WholeFile(path)
        self._writer = csv.DictWriter(self._file, columns, lineterminator="\n")
        self.count = 0

    def extend(self, rows: Iterable[Mapping[str, Any]]) -> None:
        for row in rows:
            self._begin()
            self._writer.writerow(row)
            self.count += 1

    def keep(self) -> None:
        self._begin()
        self._file.keep()

    def close(self) -> None:
        self._file.close()

    def _begin(self) -> None:
        if not self.count:
            self._writer.writeheader()
