"""Tables that a command writes into a page, between two marks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..backbones import InputError


def write_between(page: Path, name: str, text: str) -> None:
    """Replace what stands on a page between `<!-- NAME: … -->` and `<!-- end of NAME -->`, each a line of its own."""
    lines = page.read_text().splitlines() if page.is_file() else []
    begins = [i for i, line in enumerate(lines) if line.startswith(f"<!-- {name}: ")]
    ends = [i for i, line in enumerate(lines) if line == f"<!-- end of {name} -->"]
    if len(begins) != 1 or len(ends) != 1 or ends[0] < begins[0]:
        raise InputError(
            f"{page} has not the lines '<!-- {name}: … -->' and '<!-- end of {name} -->' once each; "
            "put them where the table belongs"
        )
    found = [*lines[: begins[0] + 1], "", *text.strip().splitlines(), "", *lines[ends[0] :]]
    page.write_text("\n".join(found) + "\n")


def markdown(columns: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Return a table whose first `left` columns are text, and whose others are numbers."""
    rule = ["---" if i < left else "--:" for i in range(len(columns))]
    return "\n".join("| " + " | ".join(row) + " |" for row in (columns, rule, *rows)) + "\n"
