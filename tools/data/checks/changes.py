"""The list of what --fix changed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from .records import shown
from .source import Record


@dataclass(frozen=True, slots=True)
class Change:
    """One change of the annotations: the kind of fault that it mends, where it is, and what was done."""

    kind: str
    split: str
    where: str
    what: str


class Changes(list[Change]):
    """The changes of a file, in order."""

    def __init__(self, split: str) -> None:
        super().__init__()
        self.split = split

    def note(self, kind: str, where: str, what: str) -> None:
        self.append(Change(kind, self.split, where, what))


def said(record: Record, fields: Iterable[str]) -> str:
    """Return what a record has for these fields."""
    return ", ".join(f"{key} {shown(str(record[key]))}" for key in fields if key in record)
