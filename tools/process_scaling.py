"""`vertebra benchmark processes`: training over several processes, measured here, and reckoned for many GPUs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from vertebra.tools.paper_scaling import Cluster, Reckoned
    from vertebra.tools.process_costs import Step

# What the page has between its marks.
MEASURED, ON_PAPER = "processes", "on paper"


def processes(
    counts: Annotated[
        str | None, typer.Option(metavar="N,…", help="How many: 1,2 by default, or 8,64,512 GPUs on paper.")
    ] = None,
    head: Annotated[str | None, typer.Option(help="faster_rcnn by default; on paper mask_rcnn.")] = None,
    backbone: Annotated[str, typer.Option(help="A name from `vertebra backbones list`.")] = "resnet50",
    size: Annotated[str, typer.Option(metavar="HxW", help="Size of the images in pixels.")] = "320x416",
    batch_size: Annotated[int, typer.Option(help="Images of a step in each process.")] = 1,
    precision: Annotated[str, typer.Option(help="float32, tf32, bfloat16, float16, or auto.")] = "float32",
    repeats: Annotated[int, typer.Option(min=1, help="Measured steps.")] = 5,
    threads: Annotated[int, typer.Option(min=1, help="Threads of each process on the CPU.")] = 1,
    device: Annotated[str, typer.Option(help="cpu, cuda, or auto.")] = "auto",
    on_paper: Annotated[
        bool, typer.Option("--model-on-paper", help="Measure nothing: reckon for GPUs with the next two options.")
    ] = False,
    gpu_rate: Annotated[float, typer.Option(min=0.01, help="Images/s that one GPU trains alone.")] = 120.0,
    gpu_batch: Annotated[str, typer.Option(metavar="N,…", help="Images of a step of each GPU.")] = "2,16",
    output: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the figures here too.")] = None,
    page: Annotated[
        Path | None, typer.Option("--write", metavar="FILE.md", help="Write the table between the page's marks.")
    ] = None,
) -> None:
    """Measure training steps of 1, 2, … processes, each with images of its own (weak scaling), or reckon many GPUs.

    Processes are started as torchrun does, and step as `vertebra train` does: over NCCL on GPUs, else over gloo. Each
    step counts as long as its slowest process. Beside it: the same without exchange of gradients, and nothing but an
    all-reduce of as many bytes. Efficiency is to the first count. On paper, norms and two stages are frozen, as
    in the published schedules; the assumptions are printed with the table.
    """
    import json

    from rich.console import Console

    from vertebra.tools.marked import write_between
    from vertebra.tools.model_costs import read_count

    console = Console(highlight=False)
    wanted = [read_count(text) for text in (counts or ("8,64,512" if on_paper else "1,2")).split(",")]
    if on_paper:
        batches = [read_count(text) for text in gpu_batch.split(",")]
        about, text, figures = _reckon(head or "mask_rcnn", backbone, wanted, gpu_rate, batches)
    else:
        given = (size, batch_size, precision, repeats, threads, device)
        about, text, figures = _measure(console, head or "faster_rcnn", backbone, wanted, *given)
    console.print(f"{about}\n\n{text}", soft_wrap=True, markup=False)
    if output:
        output.write_text(json.dumps({"about": about, "rows": figures}, indent=2) + "\n")
    if page:
        write_between(page, ON_PAPER if on_paper else MEASURED, f"{about}\n\n{text}")


# --- measured --------------------------------------------------------------------------------------------------------


def _measure(
    console: Any,
    head: str,
    backbone: str,
    counts: Sequence[int],
    size: str,
    batch_size: int,
    precision: str,
    repeats: int,
    threads: int,
    device: str,
) -> tuple[str, str, list[Any]]:
    from dataclasses import asdict

    from rich.progress import track

    from vertebra.backbones import row
    from vertebra.backbones.processor import machine
    from vertebra.tools import process_costs
    from vertebra.tools.build import pick_device
    from vertebra.tools.engine.checkpoint import versions
    from vertebra.tools.engine.precision import pick_precision
    from vertebra.tools.model_costs import Work, read_size

    work, place = Work(head, backbone, read_size(size), batch_size), pick_device(device)
    row(backbone), pick_precision(precision, place)  # what is wrong is said here, once
    height, width = work.size
    about = (
        f"{head} on {backbone}, {batch_size} x 3 x {height} x {width} in each process, {precision}; "
        f"{machine(place)} ({place.type}), {threads} threads each; "
        + ", ".join(f"{name} {version}" for name, version in versions().items())
    )
    shown = track(counts, "measuring", console=console, transient=True, disable=not console.is_terminal)
    steps = [process_costs.measure(work, n, device, precision, threads, repeats) for n in shown]
    return about, measured_table(steps, batch_size), [asdict(step) for step in steps]


def measured_table(steps: Sequence[Step], batch_size: int) -> str:
    """Return the figures of each count; efficiency is to the first of them."""
    from statistics import median

    from vertebra.tools.marked import markdown

    rows = []
    first = steps[0].count / steps[0].median / steps[0].count
    for step in steps:
        exchange = median(step.exchange) if step.exchange else None
        rows.append(
            (
                str(step.count),
                f"{step.median:.3f}",
                f"{median(step.alone):.3f}",
                f"{step.count * batch_size / step.median:.2f}",
                f"{1 / step.median / first:.0%}",
                f"{step.sent / 1e6:.0f}",
                "–" if exchange is None else f"{exchange:.3f}",
                "–" if exchange is None else f"{step.sent / exchange / 1e9:.2f}",
            )
        )
    columns = (
        "processes",
        "step, s",
        "without exchange, s",
        "images/s",
        "efficiency",
        "sent, MB",
        "all-reduce, s",
        "GB/s",
    )
    table: str = markdown(columns, rows)
    return table


# --- on paper --------------------------------------------------------------------------------------------------------


def _reckon(
    head: str, backbone: str, counts: Sequence[int], rate: float, batches: Sequence[int]
) -> tuple[str, str, list[Any]]:
    from dataclasses import asdict

    from vertebra.tools.paper_scaling import Cluster, gradient_bytes, reckon

    parameters, size = gradient_bytes(head, backbone, classes=91, frozen_stages=2)
    clusters = [Cluster(gpu_rate=rate, gpu_batch=batch) for batch in batches]
    found = [reckon(count, size, cluster) for cluster in clusters for count in counts]
    about = (
        f"{head} on {backbone}, norms and two stages frozen: {parameters:,} parameters train, whose gradients are "
        f"{size / 1e6:.1f} MB."
    )
    return about, paper_table(found) + "\n" + assumptions(clusters[0]), [asdict(one) for one in found]


def paper_table(found: Sequence[Reckoned]) -> str:
    """Return the steps as a table: milliseconds of its parts, and what the data have to keep up with."""
    from vertebra.tools.marked import markdown

    rows = [
        (
            str(one.gpus),
            f"{one.images:,}",
            f"{1e3 * one.compute:.1f}",
            f"{one.sent / 1e6:.0f}",
            *(f"{1e3 * seconds:.1f}" for seconds in (one.exchange, one.exposed, one.waiting)),
            f"{one.images_per_second:,.0f}",
            f"{one.efficiency:.0%}",
            f"{one.data / 1e9:.2f}",
            f"{one.cores:,.0f}",
        )
        for one in found
    ]
    columns = (
        *("GPUs", "images a step", "compute, ms", "sent, MB", "all-reduce, ms", "of it exposed, ms", "waiting, ms"),
        *("images/s", "efficiency", "JPEG, GB/s", "CPU cores"),
    )
    table: str = markdown(columns, rows)
    return table


def assumptions(cluster: Cluster) -> str:
    """Return what the table rests on, with the sources of what is not assumed."""
    lines = (
        f"a GPU alone trains {cluster.gpu_rate:g} images/s, whatever its batch (`--gpu-rate`; no measurement)",
        f"machines of {cluster.per_node} GPUs; each sends {cluster.inside / 1e9:g} GB/s to those beside it (NVLink 4: "
        "900 GB/s both ways, NVIDIA's H100 data sheet)",
        f"and {cluster.between / 1e9:g} GB/s to other machines (a port of 400 Gb/s for each GPU, DGX H100 user guide)",
        "in an all-reduce each of p GPUs sends 2(p - 1)/p of the gradients, as in a ring (nccl-tests, "
        f"doc/PERFORMANCE.md), at {cluster.reached:.0%} of the slowest link's speed",
        f"each bucket needs {1e6 * cluster.hop:g} µs besides for each message: twice round the GPUs of a machine, up "
        "and down a tree of the machines (NCCL's for many, since 2.4)",
        f"gradients are float32, in buckets of {cluster.bucket / 2**20:g} MiB (DistributedDataParallel's default), "
        f"exchanged during the backward pass, {cluster.backward:.0%} of a step; the last bucket is not hidden",
        f"a GPU's step time has a standard deviation of {cluster.spread:.0%}; all wait for the slowest (Blom's "
        "approximation to the mean of the largest of p normal draws)",
        f"an image is {cluster.image_bytes / 1e3:.0f} kB (train2017: 18 GB, 118,287 images, cocodataset.org), and a "
        f"sample takes {1e3 * cluster.sample_seconds:g} ms of one core (`vertebra benchmark data` measures it)",
    )
    return "Assumed:\n\n" + "\n".join(f"- {line}" for line in lines) + "\n"


if __name__ == "__main__":
    from vertebra.tools.cli import run

    run(lambda: typer.run(processes))
