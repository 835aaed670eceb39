"""`vertebra curves`: the learning curves of runs, in one picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Annotated, Any

import typer

# What a run is judged by, of what its evaluations measure.
HEADLINES = ("segm/AP", "bbox/AP", "semantic/mIoU", "classification/top1")

# Of what the engine's evaluations record: the loss, and what goes before the sections of weights not averaged.
HELD_OUT, RAW = "held_out/loss", "raw_"

Points = list[tuple[float, float]]


def curves(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of runs.")],
    output: Annotated[Path, typer.Option(metavar="FILE.png", help="The picture to write.")] = Path("curves.png"),
    metric: Annotated[
        str | None,
        typer.Option(metavar="SECTION/NAME", help="What to draw of the evaluations, as bbox/AP50 or IoU/road."),
    ] = None,
) -> None:
    """Draw training loss and held-out metric of one or more runs, step by step, for comparison.

    A run's evaluations are more than one point where it was trained with --set engine.evaluate_every=1.
    """
    from rich.console import Console

    found = [read_curves(run) for run in runs]
    chosen = metric or headline([scores for _, scores in found])
    _draw(output, [run.resolve().name for run in runs], found, chosen)
    console = Console()
    for run, (losses, scores) in zip(runs, found, strict=True):
        steps, loss = losses[-1]
        best = f", best {chosen} {max(v for _, v in scores[chosen]):.3f}" if chosen in scores else ""
        console.print(f"{run}: {steps:.0f} steps, last loss {loss:.3f}{best}", highlight=False, soft_wrap=True)
    console.print(f"curves are in {output}", highlight=False)


def curves_of_run(run: Path) -> None:
    """Draw `curves.png` in a run's folder: losses, also on held-out images, metrics, and the learning rate."""
    from vertebra.backbones import InputError

    records = read_log(run)
    losses, scores = points_of(records)
    if not losses:
        return
    rates = rates_of(records)
    try:
        _draw_run(run / "curves.png", losses, scores, rates)
    except OSError as error:
        raise InputError(
            f"{run / 'curves.png'} could not be written: {error.strerror}; make room, or the folder one that can be "
            f"written to, and continue with `vertebra train --resume {run}`"
        ) from error


def read_curves(run: Path) -> tuple[Points, dict[str, Points]]:
    """Return the losses of a run as (step, loss), and of its evaluations (step, value) by SECTION/NAME."""
    from vertebra.backbones import InputError

    losses, scores = points_of(read_log(run))
    if not losses:
        raise InputError(f"{run / 'log.jsonl'} holds no step yet")
    return losses, scores


def read_log(run: Path) -> list[dict[str, Any]]:
    """Return the records of a run's log; a last line that a kill cut short is left out."""
    import json

    from vertebra.backbones import InputError

    path = run / "log.jsonl"
    if not path.is_file():
        raise InputError(f"{run} is not the folder of a run: it has no log.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]


def points_of(records: Sequence[Mapping[str, Any]]) -> tuple[Points, dict[str, Points]]:
    """Return the losses in a log's records as (step, loss), and of its evaluations (step, value) by SECTION/NAME."""
    losses: Points = []
    scores: dict[str, Points] = {}
    for record in records:
        if "loss" in record:
            losses.append((record["step"], record["loss"]))
            continue
        for section, values in record.items():
            for name, value in values.items() if isinstance(values, dict) else ():
                scores.setdefault(f"{section}/{name}", []).append((record["step"], value))
    return losses, scores


def rates_of(records: Sequence[Mapping[str, Any]]) -> Points:
    """Return the learning rates in a log's records as (step, rate)."""
    return [(record["step"], record["learning_rate"]) for record in records if "loss" in record]


def headline(scores: Sequence[Mapping[str, Any]]) -> str:
    """Return the first of the headline metrics that each run has, or that any has."""
    for has in (all, any):
        for name in HEADLINES:
            if has(name in one for one in scores):
                return name
    return HEADLINES[0]


def smoothed(values: Sequence[float]) -> list[float]:
    """Return at each place the mean over the last tenth of all values, or what there is of it."""
    width = max(1, len(values) // 10)
    sums = [0.0, *accumulate(values)]
    return [(sums[end] - sums[max(0, end - width)]) / min(end, width) for end in range(1, len(values) + 1)]


def _draw(path: Path, names: Sequence[str], found: Sequence[tuple[Points, Mapping[str, Points]]], metric: str) -> None:
    """Draw the losses, and beside them the metric where a run has it."""
    measured = any(metric in scores for _, scores in found)
    figure, panels = _panels(2 if measured else 1)
    for i, (name, (losses, scores)) in enumerate(zip(names, found, strict=True)):
        _draw_losses(panels[0], losses, f"C{i}", name)
        if metric in scores:
            _draw_scores(panels[1], scores[metric], f"C{i}", name, "o-")
    panels[0].set(xlabel="step", ylabel="training loss (mean of a tenth of the steps)", yscale="log")
    if measured:
        panels[1].set(xlabel="step", ylabel=f"held-out {metric}")
    path.parent.mkdir(parents=True, exist_ok=True)
    _save(figure, panels, path)


def _draw_run(path: Path, losses: Points, scores: Mapping[str, Points], rates: Points) -> None:
    """Draw one run: losses, metrics where there are any, and the learning rate."""
    shown = [name for name in HEADLINES if name in scores]
    figure, panels = _panels(3 if shown else 2)
    _draw_losses(panels[0], losses, "C0", "training (mean of a tenth of the steps)")
    if HELD_OUT in scores:
        steps, values = zip(*scores[HELD_OUT], strict=True)
        panels[0].plot(steps, values, "o-", color="C1", markersize=4, label=f"held-out: {values[-1]:.3f}")
    panels[0].set(xlabel="step", ylabel="loss", yscale="log")
    for i, name in enumerate(shown):
        _draw_scores(panels[1], scores[name], f"C{i}", name, "o-")
        if f"{RAW}{name}" in scores:
            _draw_scores(panels[1], scores[f"{RAW}{name}"], f"C{i}", f"{name}, weights not averaged", "o:")
    if shown:
        panels[1].set(xlabel="step", ylabel="on held-out images")
    steps, values = zip(*rates, strict=True)
    panels[-1].plot(steps, values, color="C2", label=f"now {values[-1]:.3g}")
    panels[-1].set(xlabel="step", ylabel="learning rate")
    _save(figure, panels, path)


def _panels(count: int) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7 if count == 1 else 6 * count, 4.5), layout="constrained")
    return figure, figure.subplots(1, count, squeeze=False)[0]


def _draw_losses(panel: Any, losses: Points, colour: str, label: str) -> None:
    """Draw losses smoothed, over a pale trace of the raw ones."""
    steps, values = zip(*losses, strict=True)
    panel.plot(steps, values, color=colour, linewidth=0.5, alpha=0.2)
    panel.plot(steps, smoothed(values), color=colour, linewidth=2, label=label)


def _draw_scores(panel: Any, scores: Points, colour: str, label: str, style: str) -> None:
    steps, values = zip(*scores, strict=True)
    panel.plot(steps, values, style, color=colour, markersize=4, label=f"{label}: {max(values):.3f}")


def _save(figure: Any, panels: Any, path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    for panel in panels:
        panel.grid(which="both", alpha=0.3)
        panel.legend()
    FigureCanvasAgg(figure).print_figure(path, dpi=110)


if __name__ == "__main__":
    from vertebra.tools.cli import run as run_command

    run_command(lambda: typer.run(curves))
