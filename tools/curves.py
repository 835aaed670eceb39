"""`vertebra curves`: the learning curves of runs, in one picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

# What a run is judged by, of what its evaluations measure.
HEADLINES = ("segm/AP", "bbox/AP", "semantic/mIoU", "classification/top1")

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


def read_curves(run: Path) -> tuple[Points, dict[str, Points]]:
    """Return the losses of a run as (step, loss), and of its evaluations (step, value) by SECTION/NAME."""
    import json

    from vertebra.backbones import InputError

    path = run / "log.jsonl"
    if not path.is_file():
        raise InputError(f"{run} is not the folder of a run: it has no log.jsonl")
    losses: Points = []
    scores: dict[str, Points] = {}
    for record in map(json.loads, path.read_text().splitlines()):
        if "loss" in record:
            losses.append((record["step"], record["loss"]))
            continue
        for section, values in record.items():
            for name, value in values.items() if isinstance(values, dict) else ():
                scores.setdefault(f"{section}/{name}", []).append((record["step"], value))
    if not losses:
        raise InputError(f"{path} holds no step yet")
    return losses, scores


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
    windows = (values[max(0, end - width) : end] for end in range(1, len(values) + 1))
    return [sum(window) / len(window) for window in windows]


def _draw(path: Path, names: Sequence[str], found: Sequence[tuple[Points, Mapping[str, Points]]], metric: str) -> None:
    """Draw the losses, smoothed over a pale trace of the raw ones, and beside them the metric where a run has it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    measured = any(metric in scores for _, scores in found)
    figure = Figure(figsize=(12 if measured else 7, 4.5), layout="constrained")
    panels = figure.subplots(1, 2 if measured else 1, squeeze=False)[0]
    for i, (name, (losses, scores)) in enumerate(zip(names, found, strict=True)):
        steps, values = zip(*losses, strict=True)
        panels[0].plot(steps, values, color=f"C{i}", linewidth=0.5, alpha=0.2)
        panels[0].plot(steps, smoothed(values), color=f"C{i}", linewidth=2, label=name)
        if metric in scores:
            steps, values = zip(*scores[metric], strict=True)
            panels[1].plot(steps, values, "o-", color=f"C{i}", markersize=4, label=f"{name}: {max(values):.3f}")
    panels[0].set(xlabel="step", ylabel="training loss (mean of a tenth of the steps)", yscale="log")
    if measured:
        panels[1].set(xlabel="step", ylabel=f"held-out {metric}")
    for panel in panels:
        panel.grid(which="both", alpha=0.3)
        panel.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasAgg(figure).print_figure(path, dpi=110)


if __name__ == "__main__":
    from vertebra.tools.cli import run as run_command

    run_command(lambda: typer.run(curves))
