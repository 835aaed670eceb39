"""`vertebra benchmark backbones`: speed, memory and size of every family's backbones under one head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from vertebra.tools.model_costs import Work

# What the page has between its marks.
MARK = "backbones"

# One or more of every family of the registry, of each of its kinds; and of timm one of each kind that is in wide use.
DEFAULT = (
    *("resnet18", "resnet34_a", "resnet50", "resnet50_caffe", "resnet50c", "resnet50d", "resnet103", "resnetv2_50"),
    *("resnext50_32x4d", "wide_resnet50_2", "plain34", "densenet121", "vgg16_bn"),
    *("timm/mobilenetv3_large_100", "timm/efficientnet_b0", "timm/regnety_016", "timm/convnext_tiny"),
    *("timm/swin_tiny_patch4_window7_224", "timm/vit_small_patch16_224"),
    *("resnet20", "resnet56", "resnet110", "resnet110_sd", "resnetv2_110", "resnetv2_164", "resnext29_8x64d"),
    *("wrn16_8", "wrn40_4_dropout", "densenet40_k12", "densenet_bc100_k12", "highway19", "highway32_bn", "plain20"),
)

# The finest stride of networks for large images. One that begins at a finer stride gets smaller images, so that the
# head has maps of the same size to work on.
USUAL_STRIDE = 4


def backbones(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="NAME…", help="Names or shell patterns; by default of every family.")
    ] = None,
    head: Annotated[str, typer.Option(help="A detector of `vertebra.list_heads()`.")] = "faster_rcnn",
    size: Annotated[str, typer.Option(metavar="HxW", help="Images; smaller for networks of finer stride.")] = "320x416",
    batch_size: Annotated[int, typer.Option(help="Images in a step.")] = 1,
    objects: Annotated[int, typer.Option(help="Objects that an image has, and that a detector finds in it.")] = 8,
    repeats: Annotated[int, typer.Option(min=1, help="Measured runs of each, at least.")] = 3,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads on the CPU; torch's number by default.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps, or auto.")] = "auto",
    again: Annotated[bool, typer.Option("--again", help="Measure what the JSON file has as well.")] = False,
    output: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Keep the figures here; what it has is not measured.")
    ] = None,
    page: Annotated[
        Path | None, typer.Option("--write", metavar="FILE.md", help="Write the tables between the page's marks.")
    ] = None,
) -> None:
    """Measure backbones under a head: inference and training images/s, memory, parameters, operations.

    Each step of each backbone runs in a fresh process. Inference is that of `vertebra.optimize`. Weights are random,
    all train, and norms are the backbone's own. Networks whose finest stride is below 4, as those for CIFAR, get images
    with sides so much smaller: the head then works on maps of the same size. What cannot stand under the head is listed
    with the reason.
    """
    import torch
    from rich.console import Console
    from rich.progress import track

    from vertebra.backbones.processor import machine
    from vertebra.tools.build import pick_device
    from vertebra.tools.engine.checkpoint import versions
    from vertebra.tools.marked import write_between
    from vertebra.tools.model_costs import Work, read_size

    place, used = pick_device(device), threads or torch.get_num_threads()
    base = Work(head, "resnet50", read_size(size), batch_size, objects)
    about = {"head": head, "size": list(base.size), "batch_size": batch_size, "objects": objects}
    about |= {"classes": base.classes, "device": str(place), "threads": used, "machine": machine(place)}
    about |= {"versions": versions()}
    rows = {} if again else _kept(output, about)
    chosen = _chosen(names)
    console = Console(highlight=False)
    console.print(_heading(about), soft_wrap=True)
    todo = [name for name in chosen if name not in rows]
    for name in track(todo, "measuring", console=console, transient=True, disable=not console.is_terminal):
        rows[name] = measure(base, name, str(place), used, repeats)
        if output:
            _write(output, about, rows)
    shown = [rows[name] for name in chosen]
    console.print(_table(shown))
    for row in shown:
        if "reason" in row:
            console.print(f"{row['name']}: {row['reason']}", soft_wrap=True)
    if page:
        write_between(page, MARK, _heading(about).replace("\n", "; ") + ".\n\n" + as_markdown(shown))


def measure(base: Work, name: str, device: str, threads: int, repeats: int) -> dict[str, Any]:
    """Return a row: the size of the images and what each step costs, or the reason why there is none."""
    from dataclasses import asdict, replace

    from vertebra.backbones import InputError
    from vertebra.tools.model_costs import STEPS, cost
    from vertebra.tools.timing import in_fresh_process

    try:
        work = replace(base, backbone=name, size=fitting_size(base.size, name))
        found = {step: in_fresh_process(cost, work, step, device, threads, repeats) for step in STEPS}
    except InputError as error:
        return {"name": name, "reason": str(error)}
    except (RuntimeError, ValueError, TypeError, AssertionError) as error:  # of other people's networks
        first = (str(error).splitlines() or [""])[0]
        return {"name": name, "reason": f"{type(error).__name__}: {first}"}
    steps = {step: {**asdict(one), "median": one.median} for step, one in found.items()}
    return {"name": name, "size": list(work.size), "batch_size": work.batch_size, **steps}


def fitting_size(size: tuple[int, int], name: str) -> tuple[int, int]:
    """Return the size of images on which a backbone's finest map is as large as that of one that begins at stride 4."""
    import torch

    from vertebra.backbones import create_backbone

    with torch.device("meta"):
        finest = min(info.stride for info in create_backbone(name).feature_info)
    divided = max(1, USUAL_STRIDE // finest)
    return size[0] // divided, size[1] // divided


def _chosen(names: Sequence[str] | None) -> list[str]:
    """Return the names that match, in the order that they were given in."""
    from vertebra.backbones import list_backbones, row

    if not names:
        return list(DEFAULT)
    chosen: dict[str, None] = {}
    for pattern in names:
        matching = list_backbones(pattern)
        if not matching:
            row(pattern)  # says what is known
        chosen |= dict.fromkeys(matching or [pattern])
    return list(chosen)


def _kept(file: Path | None, about: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the rows that the file has, if it is of the same measurement."""
    import json

    from vertebra.backbones import InputError

    if file is None or not file.is_file():
        return {}
    content = json.loads(file.read_text())
    other = [key for key, value in about.items() if content.get(key) != value]
    if other:
        raise InputError(
            f"{file} has figures of other {', '.join(other)}; give another file, or --again to measure all anew"
        )
    return {row["name"]: row for row in content["rows"] if "reason" not in row}  # those are tried again


def _write(file: Path, about: Mapping[str, Any], rows: Mapping[str, Mapping[str, Any]]) -> None:
    """Write all at once, so that what is there stays whole when this is interrupted."""
    import json

    part = file.with_name(file.name + ".part")
    part.write_text(json.dumps({**about, "rows": list(rows.values())}, indent=2) + "\n")
    part.replace(file)


def _heading(about: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    height, width = about["size"]
    return (
        f"{about['head']}, {about['batch_size']} x 3 x {height} x {width}, {about['objects']} objects, "
        f"{about['classes']} classes, float32\n"
        f"{about['machine']} ({about['device']}), {about['threads']} threads\n{versions}"
    )


COLUMNS = ("backbone", "inference/s", "MB", "training/s", "MB", "parameters", "GFLOP")


def cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    """Return a measured row as text: name, images/s and memory in inference and training, parameters, operations."""
    found = [row["name"]]
    for step in ("inference", "train"):
        memory = row[step]["memory"]
        found += [f"{row['batch_size'] / row[step]['median']:.2f}", "–" if memory is None else f"{memory / 1e6:.0f}"]
    return *found, f"{row['inference']['parameters'] / 1e6:.1f} M", f"{row['inference']['flop'] / 1e9:.1f}"


def _by_size(rows: Sequence[Mapping[str, Any]]) -> dict[tuple[int, int], list[Mapping[str, Any]]]:
    found: dict[tuple[int, int], list[Mapping[str, Any]]] = {}
    for row in rows:
        if "reason" not in row:
            found.setdefault((row["size"][0], row["size"][1]), []).append(row)
    return found


def as_markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return a table for each size of images, and what is in none."""
    from vertebra.tools.marked import markdown

    tables = [
        f"On {height}x{width}:\n\n" + markdown(COLUMNS, [cells(row) for row in of_size])
        for (height, width), of_size in _by_size(rows).items()
    ]
    out = [f"- `{row['name']}`: {row['reason']}" for row in rows if "reason" in row]
    return "\n".join(tables) + ("\nNot under this head:\n\n" + "\n".join(out) + "\n" if out else "")


def _table(rows: Sequence[Mapping[str, Any]]) -> Any:
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False, caption_justify="left")
    table.caption = "images in a second; MB: of the model and the step; parameters, GFLOP (inference): with the head"
    for column in COLUMNS:
        table.add_column(column, justify="left" if column == "backbone" else "right")
    for (height, width), of_size in _by_size(rows).items():
        table.add_row(f"[bold]{height}x{width}[/]")
        for row in of_size:
            table.add_row(*cells(row))
    return table


if __name__ == "__main__":
    from vertebra.tools.cli import run

    run(lambda: typer.run(backbones))
