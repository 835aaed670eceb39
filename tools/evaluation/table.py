"""Tables of metrics as text for a terminal of 80 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence

# So wide that four columns of numbers still fit beside them.
NAME_WIDTH = 36


def table(titles: Sequence[str], rows: Iterable[Sequence[str | float | int | None]]) -> list[str]:
    """Return lines: the first column to the left, numbers to the right; None is a dash, fractions have four digits."""
    from rich.cells import cell_len, set_cell_size

    texts = [[_text(value) for value in row] for row in (titles, *rows)]
    for row in texts:
        if cell_len(row[0]) > NAME_WIDTH:
            row[0] = set_cell_size(row[0], NAME_WIDTH - 1) + "…"
    widths = [max(map(cell_len, column)) for column in zip(*texts, strict=True)]
    lines = []
    for first, *rest in texts:
        numbers = [text.rjust(width) for text, width in zip(rest, widths[1:], strict=True)]
        lines.append("  ".join([set_cell_size(first, widths[0]), *numbers]))
    return lines


def note(what: str, names: Iterable[str]) -> str:
    """Return lines `what: names`, or nothing where there are no names."""
    listed = ", ".join(names)
    return textwrap.fill(f"{what}: {listed}", 80, subsequent_indent="  ") if listed else ""


def _text(value: str | float | int | None) -> str:
    return "-" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)
