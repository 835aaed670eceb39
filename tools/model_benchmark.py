"""`vertebra benchmark model`: the speed and memory of a model, beside the libraries that have it too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from vertebra.tools.speed.case import Case
    from vertebra.tools.speed.timing import Measured

Row = dict[str, Any]

# Of a table that does not go to a terminal, which has a width of its own.
WIDTH = 100


def model(
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
        typer.Option(metavar="STEP,…", help="Of inference, rle (detection to run lengths), train; all by default."),
    ] = None,
    dtype: Annotated[str, typer.Option(metavar="DTYPE,…", help="Of float32, bfloat16.")] = "float32",
    compiled: Annotated[
        bool, typer.Option("--compile", help="Compile the trunks of what comes in each dtype.")
    ] = False,
    peers: Annotated[
        str | None,
        typer.Option(metavar="NAME,…", help="Of torchvision, detectron2; by default those installed with this head."),
    ] = None,
    frozen_stages: Annotated[
        int, typer.Option(help="Frozen stages of every backbone in training: 1 the stem, 2 the stem and c2, …")
    ] = 0,
    checkpointing: Annotated[
        bool, typer.Option("--checkpointing", help="Train ours with activations recomputed as well.")
    ] = False,
    parts: Annotated[bool, typer.Option("--parts", help="Say how the time is shared out.")] = False,
    memory: Annotated[
        bool, typer.Option("--memory", help="Measure the peak of memory too, each in a process of its own.")
    ] = False,
    repeats: Annotated[int, typer.Option(help="Measured runs of each.")] = 5,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads on the CPU; torch's number by default.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps, or auto.")] = "auto",
    output: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the figures here too.")] = None,
    plot: Annotated[Path | None, typer.Option(metavar="FILE.png", help="Draw the medians here.")] = None,
) -> None:
    """Measure a model beside other libraries': same weights, images and targets, taking turns in one process.

    Other libraries' models come as they ship: float32, their own memory layout and optimiser. Torchvision's comes again
    with equal settings: our layout, autocast, compiled trunk and fused SGD, and on the CPU with memory of large tensors
    kept (`vertebra.keep_freed_memory`, as `train` does). Ours comes as `create_model` gives it, by autocast in
    bfloat16, in inference also from `vertebra.optimize`, and in training on a CPU with the convolutions that `train`
    takes there; with checkpointing freed memory goes back to the system. detectron2's is its model zoo's configuration,
    with RoIAlign and strides as torchvision's, so that it is the same network.

    Weights are random, scaled so that there are detections, and all train but `--frozen-stages`. The norms of
    faster_rcnn and mask_rcnn are frozen; those of the others are plain batch norms, which in training take the
    statistics of the batch. A training step is losses, gradients, SGD with momentum and decay, and gradients cleared;
    with torchvision's that is torch's plain loop over tensors, with detectron2's its `foreach`.

    `objects` is how many are found in an image, `agree` the share of those of the first row of that dtype that are
    found too (same label, boxes overlap by 0.9), or of pixels of one class; with random weights, rounding to bfloat16
    changes many. `of peak` is to the best rate of a matrix product here in that dtype, with the multiply-adds of
    torchvision's model by direct convolutions; ways to convolve with fewer show as a larger share.

    deeplabv3 has its auxiliary head, whose loss counts half; torchvision's runs it in inference too. A step takes the
    list of images, and in inference ends with a class for each pixel.
    """
    import json

    from rich.console import Console

    from vertebra.backbones.processor import tell_of_slow_bfloat16
    from vertebra.tools import speed
    from vertebra.tools.benchmark import size_of
    from vertebra.tools.build import pick_device
    from vertebra.tools.peers import peer_of
    from vertebra.tools.speed.case import Case, installed_libraries
    from vertebra.tools.speed.hardware import DTYPES, matrix_peak
    from vertebra.tools.speed.peak_memory import check_peak, peaks
    from vertebra.tools.speed.picture import draw
    from vertebra.tools.speed.timing import measure

    known = peer_of(head)
    case = Case(
        head, backbone, size_of(size), batch_size, objects, _names(dtype), compiled, pick_device(device),
        _names(what) if what else known.steps, repeats,
        installed_libraries(head, backbone) if peers is None else _names(peers), frozen_stages, checkpointing,
    )  # fmt: skip
    if memory:
        check_peak(case.device)
    _check_files(output, plot)
    if "bfloat16" in case.dtypes:
        tell_of_slow_bfloat16(case.device)
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = WIDTH
    with speed.threads(threads) as used:
        about = _about(case, used)
        used_dtypes = dict.fromkeys(("float32", *case.dtypes))
        about["peaks"] = {name: matrix_peak(DTYPES[name], case.device) for name in used_dtypes}
        console.print(_heading(about))
        rows: list[Row] = []
        for measured in measure(case, parts=parts):
            of_step = _rows(case, measured, about["peaks"])
            console.print(f"{measured.step}: measured, {measured.operations / 1e9:,.1f} GFLOP", style="dim")
            if memory:
                found = peaks(case, measured.step, used)
                of_step = [row | {"peak_mb": peak} for row, peak in zip(of_step, found, strict=True)]
                console.print(f"{measured.step}: memory measured", style="dim")
            rows += of_step
    console.print(_table(rows, repeats, memory))
    if parts:
        for step, group in groupby(rows, key=lambda row: str(row["step"])):
            console.print(_parts_table(step, [row for row in group if row["parts"]], repeats))
    if output:
        output.write_text(json.dumps({**about, "rows": rows}, indent=2) + "\n")
    if plot:
        draw(plot, _heading(about), rows)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(","))


def _check_files(output: Path | None, plot: Path | None) -> None:
    """Refuse, before minutes of measuring, what cannot be written after them."""
    from vertebra.backbones import InputError

    for option, path in (("--json", output), ("--plot", plot)):
        if path and (path.is_dir() or not path.parent.is_dir()):
            raise InputError(
                f"{option} {path}: it is a file in a folder that exists; make {path.parent}, or choose another"
            )
    if plot and plot.suffix not in (".png", ".svg", ".pdf"):
        raise InputError(f"--plot {plot}: its name ends with .png, .svg or .pdf")


def _about(case: Case, threads: int) -> dict[str, Any]:
    from dataclasses import asdict
    from importlib.metadata import version

    from vertebra.tools import speed
    from vertebra.tools.engine.checkpoint import versions

    others = {name: version(name) for name in case.libraries if name != "torchvision"}
    return {
        **asdict(case),
        "device": str(case.device),
        "threads": threads,
        "machine": speed.machine(case.device),
        "versions": versions() | others,
    }


def _rows(case: Case, measured: Measured, peaks: Mapping[str, float]) -> list[Row]:
    first = measured.timings[0]
    return [
        {
            "step": measured.step,
            "name": timing.name,
            "dtype": timing.dtype,
            "median": timing.median,
            "min": min(timing.seconds),
            "max": max(timing.seconds),
            "images_per_second": case.batch_size / timing.median,
            "ratio": first.median / timing.median,
            "operations": measured.operations,
            "of_peak": measured.operations / timing.median / peaks[timing.dtype],
            "found": timing.found,
            "seconds": timing.seconds,
            "parts": timing.parts,
        }
        for timing in measured.timings
    ]


def _heading(about: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    height, width = about["size"]
    frozen = f", {about['frozen_stages']} stages frozen in training" if about["frozen_stages"] else ""
    peaks = ", ".join(f"{rate / 1e9:,.0f} GFLOP/s in {name}" for name, rate in about["peaks"].items())
    return (
        f"{about['head']} on {about['backbone']}, {about['batch_size']} x 3 x {height} x {width}{frozen}\n"
        f"{about['machine']} ({about['device']}), threads: {about['threads']}; matrix products: {peaks}\n{versions}"
    )


def _table(rows: Sequence[Row], repeats: int, memory: bool) -> Any:
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False, caption_justify="left")
    table.caption = (
        f"seconds, runs: {repeats}; ratio: the first's median to this one's; of peak: of the machine's matrix products"
        + ("; MB: peak of memory over that of a process without a model" if memory else "")
    )
    measures = list(dict.fromkeys(name for row in rows for name in row["found"]))
    table.add_column("model")
    for column in ("median", "min", "max", "img/s", "ratio", "of peak", *(["MB"] if memory else []), *measures):
        table.add_column(column, justify="right")
    for step, group in groupby(rows, key=lambda row: str(row["step"])):
        table.add_row(step, style="bold")
        for row in group:
            table.add_row(
                f"  {row['name']}",
                *(f"{row[key]:.3f}" for key in ("median", "min", "max")),
                f"{row['images_per_second']:.2f}",
                f"{row['ratio']:.2f}",
                f"{row['of_peak']:.0%}",
                *([f"{row['peak_mb']:,.0f}"] if memory else []),
                *(f"{row['found'][name]:.3g}" if name in row["found"] else "" for name in measures),
            )
    return table


def _parts_table(step: str, rows: Sequence[Row], repeats: int) -> Any:
    """Return the milliseconds of each part of a step, and their shares; a column for each contestant."""
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False, caption_justify="left")
    table.caption = f"milliseconds of a batch and their share, means over {repeats} more"
    table.add_column(step)
    for row in rows:
        table.add_column(row["name"], justify="right")
    totals = [sum(row["parts"].values()) for row in rows]
    for part in dict.fromkeys(name for row in rows for name in row["parts"]):
        cells = [
            f"{1000 * row['parts'][part]:.1f} {row['parts'][part] / total:>4.0%}" if part in row["parts"] else ""
            for row, total in zip(rows, totals, strict=True)
        ]
        table.add_row(part, *cells)
    table.add_row("all", *(f"{1000 * total:.1f}     " for total in totals), style="bold")
    return table
