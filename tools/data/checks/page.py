"""What a check found, as a page for a terminal."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from rich import box
from rich.console import Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from .changes import Change
from .content import QUANTILES, Part, side_quantiles, size_counts
from .kinds import ERROR, KINDS, NOTE, SEVERITIES, WARNING, Finding
from .records import shown
from .report import Report

COLOURS = {ERROR: "bold red", WARNING: "yellow", NOTE: "cyan"}
EXAMPLES = 3  # of each kind, on the page
EXAMPLE_LENGTH = 160
CLASSES = 24  # more are not all on the page, but the commonest and the rarest of them


def page(report: Report) -> Iterator[Table | str]:
    """Yield what to print: what was found, the balance of classes, the sizes of objects, and the sums."""
    for part in report.parts:
        amounts = {part.counted: part.total, "images": part.images}
        yield f"{part.name}: " + ", ".join(f"{n:,} {what}" for what, n in amounts.items()) + f" in {part.source}"
    if report.findings:
        yield _faults(report)
    yield _classes(report.parts)
    if any(part.areas is not None and len(part.areas) for part in report.parts):
        yield _object_sizes(report.parts)
    yield ", ".join(_counted(report.count(severity), severity) for severity in SEVERITIES)


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _table(title: str = "") -> Table:
    return Table(box=box.SIMPLE_HEAD, pad_edge=False, title=title or None, title_justify="left", title_style="bold")


def _faults(report: Report) -> Table:
    splits = list(dict.fromkeys(finding.split for finding in report.findings))
    table = _table()
    table.add_column("")
    table.add_column("what was found, where, and what to do", ratio=1)
    for split in splits:
        table.add_column(split, justify="right")
    for kind, found in report.by_kind().items():
        row = KINDS[kind]
        counts = [sum(finding.split == split for finding in found) for split in splits]
        table.add_row(
            Text(row.severity, COLOURS[row.severity]), _told(kind, found), *(f"{n:,}" if n else "-" for n in counts)
        )
        table.add_row()
    return table


def _told(kind: str, found: Sequence[Finding]) -> Group:
    """Return what a kind is, the first of what was found, and what to do."""
    examples = [
        f"{finding.split}: {finding.where}" + (f": {finding.detail}" if finding.detail else "")
        for finding in found[:EXAMPLES]
    ]
    if len(found) > EXAMPLES:
        examples.append(f"and {len(found) - EXAMPLES:,} more")
    return Group(Text(KINDS[kind].what, "bold"), *map(_example, examples), Text(KINDS[kind].advice))


def _example(line: str) -> Padding:
    cut = line if len(line) <= EXAMPLE_LENGTH else line[: EXAMPLE_LENGTH - 1] + "…"
    return Padding(Text(cut, "dim"), (0, 0, 0, 2))


def _classes(parts: Sequence[Part]) -> Table:
    """Return how much there is of each class in each split, the commonest class of the first split first."""
    rows: Mapping[tuple[int, str], dict[str, tuple[int, int]]] = defaultdict(dict)
    for part in parts:
        for one in part.classes:
            rows[one.id, one.name][part.name] = one.amount, one.images
    order = sorted(rows, key=lambda row: [-rows[row].get(part.name, (0, 0))[0] for part in parts])
    table = _table("classes")
    table.add_column("name", overflow="ellipsis", no_wrap=True, max_width=32)
    table.add_column("id", justify="right")
    for part in parts:
        for what in dict.fromkeys((part.counted, "images")):
            table.add_column(f"{part.name}\n{what}", justify="right")
    left_out = len(order) - CLASSES
    for place, row in enumerate(order):
        if left_out > 0 and place == CLASSES // 2:
            table.add_row(f"… {left_out} more", "")
        if left_out > 0 and CLASSES // 2 <= place < CLASSES // 2 + left_out:
            continue
        numbers: list[str] = []
        for part in parts:
            counts = rows[row].get(part.name)
            width = 1 if part.counted == "images" else 2
            numbers += ["-"] * width if counts is None else [f"{n:,}" for n in counts[:width]]
        table.add_row(Text(shown(row[1])), str(row[0]), *numbers)
    return table


def _object_sizes(parts: Sequence[Part]) -> Table:
    table = _table("sizes of objects: COCO's areas, and quantiles of √area in pixels")
    table.add_column("split")
    names = ["smallest", *(f"{share:.0%}" for share in QUANTILES[1:-1]), "largest"]
    for title in ("small", "medium", "large", *names):
        table.add_column(title, justify="right")
    for part in parts:
        if part.areas is None or not len(part.areas):
            continue
        counts = size_counts(part.areas)
        shares = (f"{count:,} ({count / len(part.areas):.0%})" for count in counts)
        table.add_row(part.name, *shares, *(f"{side:.0f}" for side in side_quantiles(part.areas)))
    return table


def changes_table(changes: Sequence[Change]) -> Table:
    """Return how many changes were made for each kind of fault, with the first of them."""
    by_kind: dict[str, list[Change]] = defaultdict(list)
    for change in changes:
        by_kind[change.kind].append(change)
    table = _table("what --fix changed")
    table.add_column("for the fault", ratio=1)
    table.add_column("changes", justify="right")
    for kind in (kind for kind in KINDS if kind in by_kind):
        first = by_kind[kind][0]
        example = _example(f"{first.split}: {first.where}: {first.what}")
        table.add_row(Group(Text(KINDS[kind].what), example), f"{len(by_kind[kind]):,}")
    return table
