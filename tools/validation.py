"""What is measured in the pauses of training."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from .curves import HEADLINES, HELD_OUT, RAW
from .data.sets import Category, DataSet
from .engine.moving_average import MovingAverage
from .engine.precision import Precision
from .engine.processes import Processes
from .evaluation.held_out_loss import held_out_loss
from .measurements import Measurement
from .trial import Trial, measure

log = logging.getLogger("vertebra")

# What the record of every evaluation has, of whatever model: how long it took.
MARK = "evaluation_seconds"

Record = dict[str, Any]


@dataclass(frozen=True)
class Validation:
    """Measures a model on held-out images: with the moving average of its weights where there is one, and as it is.

    The average's results are what the run is judged by, as `evaluate` and `predict` take the average too: they go to
    `evaluation/` in the run's folder, and those of the weights themselves to `evaluation-raw/`.
    """

    model: Any
    average: MovingAverage | None
    data: DataSet
    categories: tuple[Category, ...]
    folder: Path
    loss_images: int
    device: torch.device
    precision: Precision
    processes: Processes
    workers: int
    console: Console

    def measure(self, pictures: int) -> tuple[Record, Measurement | None]:
        """Return metrics by section and the held-out losses, as the log has them, and what was measured.

        In other processes than the main one there is no measurement, and the record is not complete.
        """
        began = time.perf_counter()
        raw: Mapping[str, Any] = {}
        if self.average is not None:
            found = self._measured("evaluation-raw", 0)
            raw = {f"{RAW}{section}": values for section, values in found.metrics.items()} if found else {}
        with self.average.applied() if self.average is not None else nullcontext():
            found = self._measured("evaluation", pictures)
            losses = self._losses()
        if found is not None:
            self.console.print(found.summary, highlight=False)
        more = {**raw, **losses}
        for name in (*(f"{RAW}{headline}" for headline in HEADLINES), HELD_OUT):
            section, figure = name.split("/")
            if figure in more.get(section, ()):
                self.console.print(f"{name}: {more[section][figure]:.3f}", highlight=False)
        seconds = round(time.perf_counter() - began, 1)
        return {MARK: seconds, **(found.metrics if found else {}), **losses, **raw}, found

    def _measured(self, folder: str, pictures: int) -> Measurement | None:
        trial = Trial(
            self.model,
            self.data,
            self.categories,
            pictures=pictures,
            device=self.device,
            workers=self.workers,
            console=self.console,
            processes=self.processes,
            precision=self.precision,
        )
        found = measure(trial)
        if found is not None:
            found.write(self.folder / folder)
        return found

    def _losses(self) -> Mapping[str, Any]:
        if not self.loss_images:
            return {}
        losses = held_out_loss(
            self.model,
            self.data.images,
            self.loss_images,
            device=self.device,
            workers=self.workers,
            precision=self.precision,
            processes=self.processes,
        )
        return {"held_out": {"loss": sum(losses.values()), **losses}}


def judged(record: Record, metric: str | None) -> float | None:
    """Return the value of a metric such as bbox/AP50, by default of the first headline metric that the record has.

    None, with a warning, where there is no such metric.
    """
    sections = {section: values for section, values in record.items() if isinstance(values, dict)}
    values = {f"{section}/{name}": value for section, of in sections.items() for name, value in of.items()}
    for name in [metric] if metric else HEADLINES:
        if name in values:
            return float(values[name])
    log.warning("no checkpoint is kept as the best by engine.best=%s; there are %s", metric, ", ".join(values))
    return None
