"""`vertebra benchmark`: seconds, side by side with the libraries that do the same."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vertebra.tools.annotation_benchmark import annotation_costs
from vertebra.tools.data_benchmark import data
from vertebra.tools.engine_benchmark import engine
from vertebra.tools.evaluation_benchmark import evaluation

if TYPE_CHECKING:
    from vertebra.tools.speed import Timing

app = typer.Typer(help="Measure speed side by side with the libraries that do the same.", no_args_is_help=True)

app.command()(data)
app.command("annotations")(annotation_costs)
app.command()(engine)
app.command()(evaluation)


@app.command()
def heads(
    head: Annotated[
        str, typer.Option(help="faster_rcnn, mask_rcnn, one of these with _v2, or deeplabv3.")
    ] = "faster_rcnn",
    backbone: Annotated[
        str,
        typer.Option(
            help="A ResNet, ResNeXt or Wide ResNet of torchvision's; with _v2 resnet50, with deeplabv3 resnet101 too."
        ),
    ] = "resnet50",
    size: Annotated[str, typer.Option(metavar="HxW", help="Size of the images in pixels.")] = "480x640",
    batch_size: Annotated[int, typer.Option(help="Images in a step.")] = 2,
    objects: Annotated[
        int, typer.Option(help="Objects that a detector finds in an image at most; there are more.")
    ] = 100,
    what: Annotated[
        str | None,
        typer.Option(metavar="STEP,…", help="Of train, inference, rle (detection to run lengths); all by default."),
    ] = None,
    dtype: Annotated[str, typer.Option(help="float32, or bfloat16 by autocast.")] = "float32",
    compiled: Annotated[bool, typer.Option("--compile", help="Compile the trunks, but for the first row's.")] = False,
    repeats: Annotated[int, typer.Option(help="Measured runs of each.")] = 5,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads on the CPU; torch's number by default.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps, or auto.")] = "auto",
    output: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the figures here too.")] = None,
) -> None:
    """Measure a model beside torchvision's: same weights, images and targets, taking turns in one process.

    Torchvision comes twice: as it ships (float32, its own memory layout), and with what the last row has too; on the
    CPU also that memory of large tensors is kept (`vertebra.keep_freed_memory`, as `train` does). Weights are random,
    scaled so that there are detections, and all train. The norms of faster_rcnn and mask_rcnn are frozen; those of the
    others are plain batch norms, which in training take the statistics of the batch.

    deeplabv3 has its auxiliary head, whose loss counts half; torchvision's runs it in inference too. A step takes the
    list of images, and in inference ends with a class for each pixel. Agreement is the share of pixels that have the
    class of the row above; with random weights, rounding to bfloat16 changes many.
    """
    import json
    from dataclasses import asdict

    from rich.console import Console

    from vertebra.tools import speed
    from vertebra.tools.build import pick_device
    from vertebra.tools.engine.checkpoint import versions
    from vertebra.tools.peers import peer_of

    peer = peer_of(head)
    steps = what.split(",") if what else peer.steps
    place = pick_device(device)
    case = speed.Case(head, backbone, size_of(size), batch_size, objects, dtype, compiled, place, steps, repeats)
    console = Console(highlight=False)
    with speed.threads(threads) as used:
        about = {**asdict(case), "device": str(case.device), "threads": used}
        about |= {"machine": speed.machine(case.device), "versions": versions()}
        console.print(_heading(about))
        rows = []
        for timings in speed.measure(case):
            rows += [_row(timing, timings[0], peer.column) for timing in timings]
            console.print(f"{timings[0].step}: measured", style="dim")
    console.print(_table(rows, peer.column))
    if output:
        output.write_text(json.dumps({**about, "rows": rows}, indent=2) + "\n")


def size_of(text: str) -> tuple[int, int]:
    """Read (height, width) from HxW."""
    from vertebra.backbones import InputError

    height, cross, width = text.partition("x")
    if not (cross and height.isdigit() and width.isdigit()):
        raise InputError(f"--size {text!r}; it is HxW, such as 480x640")
    return int(height), int(width)


def _row(timing: Timing, first: Timing, column: str) -> dict[str, Any]:
    return {
        "step": timing.step,
        "name": timing.name,
        "median": timing.median,
        "min": min(timing.seconds),
        "max": max(timing.seconds),
        "ratio": first.median / timing.median,
        column: timing.found,
        "seconds": timing.seconds,
    }


def _heading(about: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    height, width = about["size"]
    return (
        f"{about['head']} on {about['backbone']}, {about['batch_size']} x 3 x {height} x {width}, {about['dtype']}\n"
        f"{about['machine']} ({about['device']}), {about['threads']} threads\n{versions}"
    )


def _table(rows: list[dict[str, Any]], found: str) -> Any:
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False, caption_justify="left")
    table.caption = f"seconds of {len(rows[0]['seconds'])} runs; ratio: the first's median to this one's"
    for column in ("step", "model", "median", "min", "max", "ratio", found):
        table.add_column(column, justify="left" if column in ("step", "model") else "right")
    for i, row in enumerate(rows):
        new = i == 0 or rows[i - 1]["step"] != row["step"]
        last = i + 1 == len(rows) or rows[i + 1]["step"] != row["step"]
        table.add_row(
            row["step"] if new else "",
            row["name"],
            *(f"{row[key]:.3f}" for key in ("median", "min", "max")),
            f"{row['ratio']:.2f}",
            "" if row[found] is None else f"{row[found]:g}",
            end_section=last,
        )
    return table


if __name__ == "__main__":
    from vertebra.tools.cli import run

    run(app)
