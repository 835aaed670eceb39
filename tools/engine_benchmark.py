"""`vertebra benchmark engine`: what the training engine takes for itself."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from vertebra.tools.engine_speed import Shares


def engine(
    head: Annotated[
        str, typer.Option(help="faster_rcnn, mask_rcnn, one of these with _v2, or deeplabv3.")
    ] = "faster_rcnn",
    backbone: Annotated[str, typer.Option(help="A name from `vertebra backbones list`.")] = "resnet50",
    size: Annotated[str, typer.Option(metavar="HxW", help="Size of the images in pixels.")] = "480x640",
    batch_size: Annotated[int, typer.Option(help="Images in a step.")] = 2,
    accumulation: Annotated[int, typer.Option(help="Parts that a step is worked through in.")] = 1,
    clip_norm: Annotated[float | None, typer.Option(help="Bound of the gradient's norm.")] = None,
    ema: Annotated[float | None, typer.Option(help="Decay of a moving average of the weights, as 0.9998.")] = None,
    precision: Annotated[str, typer.Option(help="float32, tf32, bfloat16, float16, or auto.")] = "float32",
    steps: Annotated[int, typer.Option(help="Measured steps.")] = 10,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads on the CPU; torch's number by default.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps, or auto.")] = "auto",
    output: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the figures here too.")] = None,
) -> None:
    """Measure how much of a training step is not forward, backward or optimiser, in the loop of `vertebra train`.

    Weights and images are random; a step writes the log and the live line as in a run, and a checkpoint is counted once
    in as many steps as by default. Images are in memory: how fast they load is the matter of `vertebra benchmark data`.
    A GPU is waited for between the parts, so that its own time shows whole, where in a run some of it is hidden.
    """
    import json
    from dataclasses import asdict

    from rich.console import Console

    from vertebra.tools import engine_speed, speed
    from vertebra.tools.benchmark import size_of
    from vertebra.tools.build import pick_device
    from vertebra.tools.engine.checkpoint import versions
    from vertebra.tools.settings import Optim

    optim = Optim(batch_size=batch_size, accumulation=accumulation, clip_norm=clip_norm, ema=ema)
    case = engine_speed.Case(head, backbone, size_of(size), optim, precision, pick_device(device), steps)
    console = Console(highlight=False)
    with speed.threads(threads) as used:
        about = {**asdict(case), "device": str(case.device), "threads": used}
        about |= {"machine": speed.machine(case.device), "versions": versions()}
        console.print(_heading(about))
        shares = engine_speed.measure(case)
    console.print(_table(shares))
    if output:
        figures = {"seconds": shares.seconds, "checkpoint": shares.checkpoint, "own": shares.own}
        output.write_text(json.dumps({**about, **figures}, indent=2) + "\n")


def _heading(about: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    (height, width), images = about["size"], about["optim"]["batch_size"]
    return (
        f"{about['head']} on {about['backbone']}, {images} x 3 x {height} x {width}, {about['precision']}\n"
        f"{about['machine']} ({about['device']}), {about['threads']} threads\n{versions}"
    )


def _table(shares: Shares) -> Any:
    from rich.table import Table

    from vertebra.tools.engine_speed import WORK

    table = Table(box=None, header_style="bold", pad_edge=False, caption_justify="left")
    count = len(shares.seconds["forward"])
    table.caption = f"means of {count} steps; checkpoint: {shares.checkpoint:.2f} s in {shares.checkpoint_every} steps"
    table.add_column("part")
    for column in ("ms", "share"):
        table.add_column(column, justify="right")
    mean = shares.mean
    total = sum(mean.values())
    for part, seconds in mean.items():
        table.add_row(
            part, f"{1000 * seconds:.1f}", f"{seconds / total:.2%}", end_section=part in ("optimiser", "checkpoint")
        )
    own = sum(seconds for part, seconds in mean.items() if part not in WORK)
    table.add_row("the engine's own", f"{1000 * own:.1f}", f"{shares.own:.2%}", style="bold")
    return table
