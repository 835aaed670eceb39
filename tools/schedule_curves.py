"""`vertebra schedules`: what the schedules are, and their learning rates over time in one picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vertebra.tools.options import Overrides

if TYPE_CHECKING:
    from vertebra.tools.settings import Config

# The images of COCO's train2017.
COCO = 118_287


def schedules(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME|FILE.yaml", help="By default all that are known."),
    ] = None,
    output: Annotated[Path | None, typer.Option(metavar="FILE.png", help="Draw their learning rates, too.")] = None,
    images: Annotated[int, typer.Option(min=1, help="Images in an epoch; by default as many as COCO has.")] = COCO,
    overrides: Overrides = [],  # noqa: B006  # Typer's way to say "none"; it is never changed
) -> None:
    """List schedules: length, learning rate, warm-up and decay; --set optim.batch_size=4 shows what follows from it."""
    from rich.console import Console
    from rich.table import Table

    from vertebra.tools.config import list_schedules

    rows = [read_row(name, images, overrides) for name in names or list_schedules()]
    table = Table(box=None, header_style="bold")
    for heading in ("schedule", "length", "steps", "images a step", "rate", "warm-up", "decay"):
        table.add_column(heading, justify="right" if heading in ("steps", "images a step", "rate") else "left")
    for row in rows:
        table.add_row(row.name, *row.cells())
    console = Console(width=120)
    console.print(table)
    console.print(f"steps: for {images:,} images", highlight=False)
    if output is not None:
        draw(output, rows)
        console.print(f"curves are in {output}", highlight=False, soft_wrap=True)


@dataclass(frozen=True)
class Row:
    """A schedule on a data set of so many images: its settings, its steps, and the learning rate at its corners.

    jumps: the first step at each lower rate. corners: (step, rate) at the start, in the middle, at the last step, at
    the end of the warm-up, at each jump and before it.
    """

    name: str
    config: Config
    steps: int
    steps_per_epoch: float
    jumps: tuple[int, ...]
    corners: tuple[tuple[int, float], ...]

    def cells(self) -> tuple[str, ...]:
        """Return what the table says of it, in words and numbers."""
        schedule, optim = self.config.schedule, self.config.optim
        length = f"{schedule.epochs:g} epochs" if schedule.steps is None else f"{schedule.steps:,} steps"
        warmup = f"{schedule.warmup_steps:,} steps from {schedule.warmup_factor:g}" if schedule.warmup_steps else "none"
        return length, f"{self.steps:,}", str(optim.batch_size), f"{optim.lr:.4g}", warmup, _decay_in_words(self.config)


def read_row(name: str, images: int, overrides: Sequence[str] = ()) -> Row:
    """Return a schedule, by its name or from a YAML file, on a data set of so many images."""
    from vertebra.tools.config import compose
    from vertebra.tools.engine.schedules import learning_rate, length, milestones

    config = compose(None, {"schedule": name}, (), overrides)
    schedule, per_epoch = config.schedule, images / config.optim.batch_size
    rate, steps = learning_rate(schedule, config.optim, per_epoch), length(schedule, per_epoch)
    found = milestones(schedule, per_epoch) if schedule.decay == "multistep" else []
    jumps = tuple(step for step in found if step < steps)
    bends = {0, schedule.warmup_steps, steps // 2, steps - 1, *jumps, *(jump - 1 for jump in jumps)}
    corners = tuple((step, rate(step)) for step in sorted(bends) if 0 <= step < steps)
    return Row(Path(name).stem, config, steps, per_epoch, jumps, corners)


def _decay_in_words(config: Config) -> str:
    schedule = config.schedule
    if schedule.decay == "multistep":
        return f"times {schedule.gamma:g} at " + ", ".join(f"{milestone:,g}" for milestone in schedule.milestones)
    power = f" to the power {schedule.power:g}" if schedule.decay == "poly" else ""
    return f"{schedule.decay}{power} to {schedule.floor * config.optim.lr:g}"


def draw(path: Path, rows: Sequence[Row], columns: int = 4) -> None:
    """Draw each learning rate over time into a PNG, with its value at the corners.

    The corners are in the file's text as well, under `Description`, so that a picture can be held against the code.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    lines = math.ceil(len(rows) / columns)
    figure = Figure(figsize=(3.6 * min(columns, len(rows)), 2.5 * lines), layout="constrained")
    panels = figure.subplots(lines, min(columns, len(rows)), squeeze=False).ravel()
    for panel, row in zip(panels, rows, strict=False):
        _draw_row(panel, row)
    for panel in panels[len(rows) :]:
        panel.axis("off")
    path.parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasAgg(figure).print_figure(path, dpi=100, metadata={"Description": describe(rows)})


def describe(rows: Sequence[Row]) -> str:
    """Return the corners of all rows, a line for each: its name, and step=rate."""
    return "\n".join(f"{row.name} " + " ".join(f"{step}={rate:.6g}" for step, rate in row.corners) for row in rows)


def _draw_row(panel: Any, row: Row) -> None:
    from vertebra.tools.engine.schedules import learning_rate

    schedule, optim = row.config.schedule, row.config.optim
    unit = row.steps_per_epoch if schedule.steps is None else 1000.0
    rate = learning_rate(schedule, optim, row.steps_per_epoch)
    corners = [step for step, _ in row.corners]
    steps = sorted({*corners, *range(0, row.steps, math.ceil(row.steps / 500))})
    panel.plot([step / unit for step in steps], [rate(step) for step in steps], linewidth=1.5)
    for step in (schedule.warmup_steps, *(row.jumps or corners[-1:])):
        place = (step / unit, rate(step))
        panel.annotate(f"{rate(step):.2g}", place, (3, 3), textcoords="offset points", fontsize=8)
    panel.set_title(f"{row.name}: {optim.batch_size} images a step", fontsize=9)
    panel.set_xlabel("epochs" if schedule.steps is None else "thousand steps", fontsize=8)
    panel.tick_params(labelsize=8)
    panel.set(xlim=(0, row.steps / unit * 1.18), ylim=(0, optim.lr * 1.15))
    panel.grid(alpha=0.3)


if __name__ == "__main__":
    from vertebra.tools.cli import run

    run(lambda: typer.run(schedules))
