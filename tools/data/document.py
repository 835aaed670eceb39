"""Reading COCO's JSON record by record, so that a file of gigabytes costs no more memory than its largest record."""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from ...backbones import InputError

LISTS = ("images", "annotations", "categories")
CHUNK = 1 << 20  # bytes
LARGEST = 1 << 28  # characters of one record

# An error that is so near to the end of what was read may come from the end; no number or escape is longer.
NEAR_END = 64


def records(
    path: Path,
    names: Collection[str],
    advance: Callable[[int], object] = lambda _: None,
    *,
    needed: Collection[str] = LISTS,
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the records of these of the file's lists, each with the name of its list, in the file's order.

    `advance` is called with the number of bytes that were read. A file that is not JSON, or lacks one of the lists that
    are needed, is an InputError.
    """
    there = set()
    with _open(path) as file, _readable(path):
        text = _Text(file, advance)
        for name in text.object_keys():
            if name not in LISTS or text.peek() != "[":
                text.value()
                continue
            there.add(name)
            for record in text.items():
                if name not in names:
                    continue
                if not isinstance(record, dict):
                    raise InputError(f"{path} is not a COCO instances file: {name!r} holds {str(record)[:40]!r}")
                yield name, record
    missing = ", ".join(repr(name) for name in needed if name not in there)
    if missing:
        raise InputError(f"{path} is not a COCO instances file: it has no list {missing}")


def _open(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise InputError(f"no annotations at {path} ({error.strerror}); check --data-root") from error


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except InputError:
        raise
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not JSON: {error}") from error


class _Text:
    """The text of a JSON file of which a part is in memory, and the place in it that was read up to."""

    decoder = json.JSONDecoder()

    def __init__(self, file: BinaryIO, advance: Callable[[int], object]) -> None:
        self.file = file
        self.advance = advance
        self.utf8 = codecs.getincrementaldecoder("utf-8-sig")()
        self.text, self.place = "", 0
        self.before = 0  # characters that are no longer in memory
        self.ended = False

    def object_keys(self) -> Iterator[str]:
        """Yield the keys of the object that the file is; the caller reads each one's value before the next."""
        if self.peek() != "{":
            # Whatever else it is, it has none of the lists; but JSON it has to be.
            self.value()
        else:
            for _ in self._parts("{", "}"):
                key = self.value()
                if not isinstance(key, str):
                    raise ValueError(f"a key is {key!r}")
                self._take(":")
                yield key
        if self.peek():
            raise ValueError(f"it goes on after its end, at character {self.before + self.place}")

    def items(self) -> Iterator[Any]:
        """Yield the items of a list."""
        return (self.value() for _ in self._parts("[", "]"))

    def _parts(self, begin: str, end: str) -> Iterator[None]:
        self._take(begin)
        if self.peek() == end:
            self.place += 1
            return
        while True:
            yield
            if self.peek() == end:
                self.place += 1
                return
            self._take(",")

    def _take(self, expected: str) -> None:
        if self.peek() != expected:
            raise ValueError(f"{expected!r} is expected at character {self.before + self.place}")
        self.place += 1

    def peek(self) -> str:
        """Return the next character that is no space, or nothing at the end."""
        while True:
            while self.place < len(self.text):
                if self.text[self.place] not in " \t\n\r":
                    return self.text[self.place]
                self.place += 1
            if not self._more():
                return ""

    def value(self) -> Any:
        """Return the next value, whatever it is."""
        self.peek()
        while True:
            try:
                found, end = self.decoder.raw_decode(self.text, self.place)
            except json.JSONDecodeError as error:
                cut = error.pos > len(self.text) - NEAR_END or error.msg.startswith("Unterminated string")
                if cut and self._more():
                    continue
                raise ValueError(f"{error.msg} at character {self.before + error.pos}") from error
            if end == len(self.text) and self._more():  # a number may go on
                continue
            self.place = end
            return found

    def _more(self) -> bool:
        """Read on, as much again as is waiting to be understood; False at the end of the file."""
        if self.ended:
            return False
        self.before += self.place
        waiting = self.text[self.place :]
        if len(waiting) > LARGEST:
            raise ValueError(f"a record from character {self.before} on is longer than {LARGEST:,} characters")
        content = self.file.read(max(CHUNK, len(waiting)))
        self.advance(len(content))
        self.ended = not content
        self.text, self.place = waiting + self.utf8.decode(content, self.ended), 0
        return True
