"""`vertebra backbones degradation`: does a deeper network train worse? With shortcuts, and without."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vertebra.tools.curves import smoothed

if TYPE_CHECKING:
    from vertebra.tools.gradients import Batch

Norms = list[tuple[str, float]]

# Enough to last for some epochs of the default steps: the loss is that of training, on pictures seen before.
PICTURES = 4096

# So many pictures, always the same, for the gradients before and after.
PROBE = 64


def degradation(
    output: Annotated[Path, typer.Option(metavar="DIR", help="Folder to write; new or empty.")] = Path(
        "runs/degradation"
    ),
    names: Annotated[
        list[str], typer.Option("--names", metavar="NAME", help="A backbone to train; may be repeated.")
    ] = ["plain20", "plain56", "resnet20", "resnet56"],  # noqa: B006  # never changed
    steps: Annotated[int, typer.Option(help="Training steps of each network.")] = 240,
    batch_size: Annotated[int, typer.Option(help="Pictures in a step.")] = 64,
    seed: Annotated[int, typer.Option(help="Of the pictures, their order, and the weights.")] = 0,
    lr: Annotated[float, typer.Option(help="Learning rate, after a warm-up over a tenth of the steps.")] = 0.02,
    data: Annotated[
        Path | None, typer.Option(metavar="DIR", help="CIFAR-10's binary version; generated shapes by default.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps, or auto.")] = "auto",
) -> None:
    """Train plain and residual networks alike, and compare their training losses and gradients by depth.

    The experiment of arXiv:1512.03385, figures 1 and 6, in minutes: a deeper plain network has a higher training
    error, a deeper residual network has not. Writes log.jsonl, losses.png, gradients.png and summary.json.
    """
    import json
    import math
    from time import perf_counter

    import torch
    from rich.console import Console
    from rich.table import Table

    from vertebra.backbones import InputError, create_backbone, row
    from vertebra.tools.build import pick_device
    from vertebra.tools.engine.checkpoint import git_state, versions
    from vertebra.tools.gradients import PooledClassifier, gradient_norms, shuffled, train, warm_up

    if steps < 1 or batch_size < 2 or not lr > 0:
        raise InputError(f"steps={steps}, batch_size={batch_size}, lr={lr}: at least 1, 2 and above 0 are needed")
    for name in names:
        row(name)  # an unknown name is an error now, not after the networks before it
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise InputError(f"{output} exists already and is not an empty folder; choose another --output")
    place = pick_device(device)
    (images, labels), classes = _pictures(data, seed, most=steps * batch_size)
    probe = images[:PROBE].to(place), labels[:PROBE].to(place)
    output.mkdir(parents=True, exist_ok=True)
    settings = {"names": names, "steps": steps, "batch_size": batch_size, "seed": seed, "lr": lr}
    settings |= {"data": str(data or "shapes"), "pictures": len(images), "device": str(place)}
    console = Console()
    losses: dict[str, list[float]] = {}
    norms: dict[str, tuple[Norms, Norms]] = {}
    networks: dict[str, Any] = {}
    with (output / "log.jsonl").open("w") as log:
        for name in names:
            torch.manual_seed(seed)
            model = PooledClassifier(create_backbone(name), classes).to(place)
            before = gradient_norms(model, *probe)
            batches = shuffled(images, labels, steps=steps, size=batch_size, seed=seed)
            on_place = ((x.to(place), y.to(place)) for x, y in batches)
            started = perf_counter()
            losses[name] = []
            for step, loss in enumerate(train(model, on_place, rate=warm_up(lr, steps // 10)), start=1):
                if not math.isfinite(loss):
                    raise InputError(f"the loss of {name} is {loss} at step {step}; choose a lower --lr than {lr}")
                losses[name].append(loss)
                log.write(json.dumps({"network": name, "step": step, "loss": loss}) + "\n")
                log.flush()
            seconds = (perf_counter() - started) / steps
            norms[name] = before, gradient_norms(model, *probe)
            networks[name] = {
                "loss": smoothed(losses[name])[-1],
                "seconds_per_step": seconds,
                "gradient": {when: _extremes(n) for when, n in zip(("initial", "final"), norms[name], strict=True)},
            }
            console.print(f"{name}: loss {networks[name]['loss']:.4f}, {seconds:.2f} s a step", highlight=False)
    summary = {"networks": networks, "settings": settings, "versions": versions(), "git": git_state()}
    (output / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    _draw_losses(output / "losses.png", losses, {name: len(norms[name][0]) for name in names})
    _draw_gradients(output / "gradients.png", norms)
    table = Table("network", box=None, caption="gradient: norm in the first block / in the last")
    for column in ("training loss", "gradient at first", "gradient at last"):
        table.add_column(column, justify="right")
    for name, found in networks.items():
        first, last = ("{first:.3g} / {last:.3g}".format(**found["gradient"][when]) for when in ("initial", "final"))
        table.add_row(name, f"{found['loss']:.4f}", first, last)
    console.print(table)
    console.print(f"pictures and numbers are in {output}", highlight=False)


def _pictures(data: Path | None, seed: int, most: int) -> tuple[Batch, int]:
    """Return the training pictures with their labels, and the number of classes; no more than needed are generated."""
    from vertebra.tools.data.cifar import KINDS
    from vertebra.tools.data.shapes import SHAPES
    from vertebra.tools.gradients import cifar_pictures, shape_pictures

    if data is None:
        return shape_pictures(min(PICTURES, max(PROBE, most)), seed), len(SHAPES)
    return cifar_pictures(data), KINDS["cifar10"].classes


def _extremes(norms: Norms) -> dict[str, float]:
    values = [value for _, value in norms]
    return {"first": values[0], "last": values[-1], "min": min(values), "max": max(values)}


def _draw_losses(path: Path, losses: dict[str, list[float]], depths: dict[str, int]) -> None:
    """Draw smoothed losses over a pale trace of the raw ones: plain dashed, residual solid, a colour for each depth."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from vertebra.backbones import row
    from vertebra.backbones.shortcuts import nothing

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    ranks = sorted(set(depths.values()))
    for name, values in losses.items():
        plain = getattr(row(name), "shortcut", None) is nothing
        colour = f"C{ranks.index(depths[name])}"
        steps = range(1, len(values) + 1)
        axes.plot(steps, values, color=colour, linewidth=0.5, alpha=0.2)
        line = "--" if plain else "-"
        axes.plot(steps, smoothed(values), line, color=colour, linewidth=2, label=f"{name}: {smoothed(values)[-1]:.3f}")
    axes.set(xlabel="step", ylabel="training loss (mean of the last tenth of the steps)", yscale="log")
    axes.grid(which="both", alpha=0.3)
    axes.legend(title="plain dashed, residual solid", handlelength=3)
    FigureCanvasAgg(figure).print_figure(path, dpi=120)


def _draw_gradients(path: Path, norms: dict[str, tuple[Norms, Norms]]) -> None:
    """Draw a panel for each network: gradient norm by block, before and after training; stages begin at the ticks."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = -(-len(norms) // 2)
    figure = Figure(figsize=(10, 3.2 * rows), layout="constrained")
    panels = list(figure.subplots(rows, 2, sharey=True, squeeze=False).flat)
    for axes, (name, (before, after)) in zip(panels, norms.items(), strict=False):
        for label, found in (("at initialisation", before), ("after the last step", after)):
            axes.plot([value for _, value in found], "o-", markersize=3, label=label)
        ticks = [i for i, (block, _) in enumerate(before) if block.endswith(".0")] or range(len(before))
        axes.set_xticks(ticks, [before[i][0] for i in ticks], rotation=20)
        axes.set(title=name, yscale="log")
        axes.grid(alpha=0.3)
    for axes in panels[len(norms) :]:
        axes.remove()
    figure.supxlabel("block, from the input to the output")
    figure.supylabel("norm of the gradient")
    figure.axes[0].legend()
    FigureCanvasAgg(figure).print_figure(path, dpi=120)


if __name__ == "__main__":
    from vertebra.tools.cli import run

    run(lambda: typer.run(degradation))
