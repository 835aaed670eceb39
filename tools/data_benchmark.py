"""`vertebra benchmark data`: how fast training samples load, beside torchvision's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vertebra.tools.options import DataRoot, Overrides

if TYPE_CHECKING:
    from vertebra.tools.data_speed import Case, Rate
    from vertebra.tools.settings import Config


def data(
    data: Annotated[
        str, typer.Option(metavar="NAME|FILE.yaml", help="A data set with one training file in COCO's format.")
    ] = "coco",
    data_root: DataRoot = None,
    heads: Annotated[
        str, typer.Option("--head", metavar="NAME,…", help="What learns from it: boxes alone, or masks as well.")
    ] = "faster_rcnn,mask_rcnn",
    presets: Annotated[
        str, typer.Option("--preset", metavar="NAME,…", help="Of default, multiscale, lsj.")
    ] = "default,lsj",
    workers: Annotated[str, typer.Option(metavar="N,…", help="Worker processes; 0 loads in this one.")] = "0,2",
    batch_size: Annotated[int, typer.Option(help="Images in a batch.")] = 2,
    samples: Annotated[int, typer.Option(help="Training samples in a run.")] = 80,
    repeats: Annotated[int, typer.Option(help="Measured runs of each.")] = 5,
    threads: Annotated[int, typer.Option(min=1, help="Threads of this process, for 0 workers; a worker has one.")] = 1,
    overrides: Overrides = [],  # noqa: B006  # Typer's way to say "none"; it is never changed
    output: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the figures here too.")] = None,
) -> None:
    """Measure how fast training samples load, beside torchvision's reference pipeline: the same images, in turns.

    Torchvision's is CocoDetection with transforms v2, once on Pillow's images and once on tensors: a random flip, and
    the short side as the settings say (default, multiscale) or large-scale jitter into a crop (lsj); boxes are
    sanitised, pixels stay uint8, and masks are dense where ours are boxed. Both go through a plain DataLoader over the
    same images in the same order, without those that have no objects. The ratio is to the faster of torchvision's two.
    Freed memory is kept for both (`vertebra.keep_freed_memory`). Below is how our time is shared out without workers.
    """
    import json

    from rich.console import Console

    from vertebra.tools import data_speed
    from vertebra.tools.config import compose
    from vertebra.tools.data_parts import parts

    console = Console(highlight=False)
    counts = [_count(text) for text in workers.split(",")]
    settings = [*([f"data.root={Path(data_root).resolve()}"] if data_root else []), *overrides]
    configs = [compose(None, {"head": head, "data": data}, (), settings) for head in heads.split(",")]
    cases = {
        (config.choices.head, preset): _case(config, preset, batch_size, samples, repeats)
        for config in configs
        for preset in presets.split(",")
    }
    about = {"data": data, "batch_size": batch_size, "samples": samples, "threads": threads, **_machine()}
    console.print(_heading(about))
    rows: list[dict[str, Any]] = []
    shares: list[dict[str, Any]] = []
    with data_speed.threads(threads):
        for (head, preset), case in cases.items():
            models = data_speed.contestants(case)
            for count in counts:
                rates = data_speed.measure(case, models, count)
                fastest = max(rate.median for rate in rates[:-1])
                rows += [{"head": head, "preset": preset, "workers": count, **_row(rate, fastest)} for rate in rates]
                console.print(f"{head}, {preset}, {count} workers: measured", style="dim")
            shares.append({"head": head, "preset": preset, **parts(case, models[-1])})
    console.print(_rates(rows, repeats))
    console.print(_shares(shares, samples))
    if output:
        output.write_text(json.dumps({**about, "rows": rows, "parts": shares}, indent=2) + "\n")


def _count(text: str) -> int:
    from vertebra.backbones import InputError

    if not text.isdigit():
        raise InputError(f"--workers {text!r}; it takes numbers of processes from 0 on, such as 0,2")
    return int(text)


def _case(config: Config, preset: str, batch_size: int, samples: int, repeats: int) -> Case:
    from dataclasses import replace

    from vertebra.tools.data_speed import Case

    keys, transforms = config.head.model.target_keys, replace(config.transforms, preset=preset)
    return Case(config.data, keys, transforms, batch_size, samples, repeats, config.engine.seed)


def _machine() -> dict[str, Any]:
    """Return what the figures are of: the machine and how busy it is, and versions."""
    import os
    from importlib.metadata import version

    import torch

    from vertebra.tools.engine.checkpoint import versions
    from vertebra.tools.speed import machine

    others = ("pillow", "opencv-python", "albumentations", "pycocotools")
    return {
        "machine": machine(torch.device("cpu")),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "versions": versions() | {name: version(name) for name in others},
    }


def _heading(about: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    return (
        f"{about['data']}: {about['samples']} samples a run in batches of {about['batch_size']}\n"
        f"{about['machine']}, {about['cores']} cores, load {about['load']:.1f} before; {about['threads']} threads\n"
        f"{versions}"
    )


def _row(rate: Rate, fastest: float) -> dict[str, Any]:
    return {
        "name": rate.name,
        "median": rate.median,
        "min": min(rate.images_per_second),
        "max": max(rate.images_per_second),
        "ratio": rate.median / fastest,
        "objects": rate.objects,
        "megapixels": rate.megapixels,
        "seconds": rate.seconds,
    }


def _rates(rows: Sequence[Mapping[str, Any]], repeats: int) -> Any:
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False, caption_justify="left")
    table.caption = (
        f"images in a second, in {repeats} runs; ratio: to the faster of torchvision's; objects, Mpx: of a sample"
    )
    table.add_column("loader")
    for column in ("median", "min", "max", "ratio", "objects", "Mpx"):
        table.add_column(column, justify="right")
    for case, group in groupby(rows, key=itemgetter("head", "preset", "workers")):
        table.add_row("{}, {}, {} workers".format(*case))
        for row in group:
            rates = (f"{row[key]:.1f}" for key in ("median", "min", "max"))
            rest = f"{row['ratio']:.2f}", f"{row['objects']:.1f}", f"{row['megapixels']:.2f}"
            table.add_row(f"  {row['name']}", *rates, *rest)
    return table


def _shares(parts: Sequence[Mapping[str, Any]], samples: int) -> Any:
    """Return a table of the milliseconds that each part of ours takes for a sample, and their shares."""
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False, caption_justify="left")
    names = [key for key in parts[0] if key not in ("head", "preset")]
    table.caption = "milliseconds of ours for a sample without workers, and their share"
    table.add_column("vertebra")
    for column in (*names, "all"):
        table.add_column(column, justify="right")
    for row in parts:
        total = sum(row[name] for name in names)
        cells = [f"{1000 * row[name] / samples:.1f} ({row[name] / total:.0%})" for name in names]
        table.add_row(f"{row['head']}, {row['preset']}", *cells, f"{1000 * total / samples:.1f}")
    return table
