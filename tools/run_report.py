"""The report of a measurement, with what is known of what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from .measurements import Measurement
from .report.learning import read_learning
from .report.page import write_report
from .settings import Config


@dataclass(frozen=True)
class Origin:
    """Where a measurement is from. facts: pairs of what is said of it; run: the folder whose learning curves it has."""

    title: str
    facts: tuple[tuple[str, str], ...]
    run: Path | None = None


def origin_of(config: Config, title: str, weights: str, split: str, run: Path | None = None) -> Origin:
    """Return what is said of a model; weights: where they are from."""
    choices = config.choices
    data = f"{choices.data}, {split}"
    named = (("head", choices.head), ("backbone", choices.backbone), ("data", data), ("weights", weights))
    return Origin(title, named, run)


def write_measurement_report(folder: Path, measurement: Measurement, origin: Origin, notes: Sequence[str] = ()) -> Path:
    """Write a report's files into a folder; return the path of its page. notes: sentences to add."""
    content = measurement.content(origin.title)
    learning = None if origin.run is None else read_learning(origin.run)
    facts = [*origin.facts, *content.facts]
    notes = [*content.notes, *notes]
    return write_report(folder, replace(content, facts=facts, notes=notes, learning=learning))
