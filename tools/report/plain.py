"""A report's figures as plain data and as Markdown."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import fields, is_dataclass
from itertools import groupby
from typing import Any

from .content import Confusion, Content, Headline, ImageCard, Table, Value

# What sections are called in a sentence's place.
SECTIONS = {
    "bbox": "Boxes",
    "segm": "Masks",
    "boundary": "Boundaries",
    "semantic": "Pixels",
    "classification": "Images",
}

# So many confusions are listed.
CONFUSIONS = 20


def section_title(section: str) -> str:
    """Return what readers call a section."""
    return SECTIONS.get(section, section)


def figures(value: Any) -> Any:
    """Return any part of a Content as what JSON has: no bytes of pictures, None for what is not finite."""
    if is_dataclass(value):
        parts = ((field.name, getattr(value, field.name)) for field in fields(value))
        return {name: figures(part) for name, part in parts if not isinstance(part, bytes)}
    if isinstance(value, dict):
        return {key: figures(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [figures(part) for part in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return value


def as_json(content: Content) -> str:
    """Return the report as JSON that is compact and still can be read: each part, or member of a list, in one line."""
    parts = []
    for name, part in figures(content).items():
        lines = ",\n  ".join(map(json.dumps, part)) if isinstance(part, list) else ""
        parts.append(f" {json.dumps(name)}: " + (f"[\n  {lines}\n ]" if lines else json.dumps(part)))
    return "{\n" + ",\n".join(parts) + "\n}\n"


def pivoted(headlines: Sequence[Headline]) -> tuple[list[str], list[tuple[str, list[Headline | None], str]]]:
    """Return the sections, and for each name of a figure its headline in each of the sections, and what it means."""
    sections = list(dict.fromkeys(headline.section for headline in headlines))
    by_name: dict[str, dict[str, Headline]] = {}
    for headline in headlines:
        by_name.setdefault(headline.name, {})[headline.section] = headline
    rows = [
        (name, [found.get(section) for section in sections], next(iter(found.values())).meaning)
        for name, found in by_name.items()
    ]
    return sections, rows


def confusions(confusion: Confusion, most: int = CONFUSIONS) -> list[tuple[str, str, int, float]]:
    """Return the most frequent confusions: what is true, what was found, how often, and the share of its row."""
    pairs = [
        (true, found, count, count / sum(row))
        for true, row in zip(confusion.rows, confusion.counts, strict=True)
        for found, count in zip(confusion.columns, row, strict=True)
        if count and true != found
    ]
    return sorted(pairs, key=lambda pair: -pair[2])[:most]


def markdown(content: Content) -> str:
    """Return the report as Markdown, with tables as GitHub shows them."""
    parts = [f"# {_text(content.title)}", _text(content.kind.capitalize())]
    if content.facts:
        parts.append(_table(("", ""), content.facts))
    if content.headlines:
        sections, rows = pivoted(content.headlines)
        cells = [[name, *map(_interval, found), meaning] for name, found, meaning in rows]
        parts += ["## Figures", _table(("", *map(section_title, sections), "meaning"), cells)]
        if any(headline.low is not None for headline in content.headlines):
            parts.append("In brackets: the interval of 95 % over images.")
    for section, tables in groupby(content.tables, lambda table: table.section):
        parts += _class_tables(section, list(tables))
    for errors in content.errors:
        rows_of_errors = list(zip(errors.names, errors.values, errors.meanings, strict=True))
        parts += [
            f"## What errors cost: {section_title(errors.section).lower()}",
            _table(("error", "points of AP50", "meaning"), rows_of_errors, digits=2),
        ]
    if content.confusion is not None:
        parts += ["## Confusions", _text(content.confusion.note)]
        parts.append(_table(("true", "found", "count", "share of its row"), confusions(content.confusion)))
    for title, cards in (("Worst", content.worst), ("Best", content.best)):
        if cards:
            parts += [f"## {title} images", *([_text(content.ranking)] if content.ranking else []), _cards(cards)]
    if content.notes:
        parts += ["## Notes", "\n".join(f"- {_text(sentence)}" for sentence in content.notes)]
    return "\n\n".join(parts) + "\n"


def _class_tables(section: str, tables: Iterable[Table]) -> list[str]:
    parts = []
    for table in tables:
        of_size = "" if table.size == "all" else f", {table.size} objects"
        parts += [f"## Classes: {section_title(section).lower()}{of_size}", _table(table.columns, table.rows)]
    return parts


def _cards(cards: Sequence[ImageCard]) -> str:
    return _table(("image", "quality", "note"), [(card.name, card.quality, card.note) for card in cards])


def _interval(headline: Headline | None) -> str:
    if headline is None:
        return "-"
    value = shown(headline.value)
    if headline.low is None or headline.high is None:
        return value
    return f"{value} ({shown(headline.low)} to {shown(headline.high)})"


def shown(value: Value, digits: int = 3) -> str:
    """Return a value as text: fractions with so many digits, a dash for what cannot be measured."""
    if isinstance(value, float):
        return f"{value:.{digits}f}" if math.isfinite(value) else "-"
    return "-" if value is None else str(value)


def _table(titles: Sequence[str], rows: Sequence[Sequence[Value]], digits: int = 3) -> str:
    """Return a table of GitHub's Markdown: the first column to the left, columns that hold a number to the right."""
    columns = list(zip(*rows, strict=True)) or [()] * len(titles)
    numbers = [any(isinstance(value, float | int) for value in column) for column in columns]
    rule = ["---:" if number else "---" for number in numbers]
    lines = [[_text(title) for title in titles], rule, *([_text(shown(v, digits)) for v in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _text(text: str) -> str:
    """Return a text in one line, of which Markdown and HTML leave every character as it is."""
    line = " ".join(text.split())
    return re.sub(r"([\\`*_{}\[\]<>#|~$&!])", r"\\\1", line)
