"""`vertebra benchmark costs`: what a step costs against image size, batch, objects, classes and depth."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from vertebra.tools.cost_fits import Curve
    from vertebra.tools.model_costs import Cost, Work

# What the page has between its marks.
MARK = "costs"


@dataclass(frozen=True)
class Axis:
    """What is swept: a field of `model_costs.Work`, and its values as the user writes them.

    x: what costs are held against, of (work, cost), in `unit`.
    """

    field: str
    values: tuple[str, ...]
    unit: str
    x: Callable[[Work, Cost], float]


AXES: Mapping[str, Axis] = {
    "size": Axis(
        "size",
        ("224x288", "320x416", "448x576", "640x832"),
        "megapixels",
        lambda work, cost: work.size[0] * work.size[1] / 1e6,
    ),
    "batch": Axis("batch_size", ("1", "2", "3", "4"), "images", lambda work, cost: work.batch_size),
    "objects": Axis("objects", ("1", "8", "32", "100"), "objects", lambda work, cost: work.objects),
    # Of one thing, Pascal VOC, COCO in torchvision's numbers, Objects365, and LVIS; each with the background.
    "classes": Axis("classes", ("2", "21", "91", "366", "1204"), "classes", lambda work, cost: work.classes),
    # Deeper networks have other blocks as well, so layers would not do as a measure.
    "depth": Axis(
        "backbone",
        ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"),
        "GFLOP",
        lambda work, cost: cost.flop / 1e9,
    ),
}


def costs(
    head: Annotated[str, typer.Option(help="A name from `vertebra.list_heads()`.")] = "faster_rcnn",
    backbone: Annotated[str, typer.Option(help="A name from `vertebra backbones list`.")] = "resnet50",
    size: Annotated[str, typer.Option(metavar="HxW", help="Size of the images in pixels.")] = "320x416",
    batch_size: Annotated[int, typer.Option(help="Images in a step.")] = 1,
    objects: Annotated[int, typer.Option(help="Objects that an image has, and that a detector finds in it.")] = 8,
    classes: Annotated[int, typer.Option(help="Classes, with the background where the head has one.")] = 91,
    what: Annotated[str, typer.Option(metavar="STEP,…", help="Of inference, train.")] = "inference,train",
    axes: Annotated[
        str | None, typer.Option(metavar="AXIS,…", help="Of size, batch, objects, classes, depth; all by default.")
    ] = None,
    sweep: Annotated[
        list[str], typer.Option(metavar="AXIS=VALUE,…", help="Other values of an axis; may be repeated.")
    ] = [],  # noqa: B006  # Typer's way to say "none"; it is never changed
    repeats: Annotated[int, typer.Option(min=1, help="Measured runs of each, at least.")] = 3,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads on the CPU; torch's number by default.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps, or auto.")] = "auto",
    output: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the figures here too.")] = None,
    plot: Annotated[Path | None, typer.Option(metavar="FILE.png", help="Draw the curves.")] = None,
    page: Annotated[
        Path | None, typer.Option("--write", metavar="FILE.md", help="Write the table between the page's marks.")
    ] = None,
) -> None:
    """Measure what a step costs along one axis at a time, the others at the values that are given.

    Each point is measured in a fresh process: seconds are medians, memory is what the process takes for the model and
    the step at its most. Inference is that of `vertebra.optimize`. Weights are random, all train, and norms are the
    backbone's own. A detector learns from as many objects as it finds; ten times as many boxes are likely before
    suppression. A line is fitted to each curve by least squares; depth counts as floating-point operations of inference
    on an image (two for a multiply-add).
    """
    import json
    from dataclasses import asdict

    import torch
    from rich.console import Console
    from rich.progress import track

    from vertebra.backbones.processor import machine
    from vertebra.tools import model_costs, timing
    from vertebra.tools.build import pick_device
    from vertebra.tools.engine.checkpoint import versions
    from vertebra.tools.marked import write_between

    base = model_costs.Work(head, backbone, model_costs.read_size(size), batch_size, objects, classes)
    steps = model_costs.read_steps(what)
    works = swept(base, chosen_axes(base, axes), sweep)
    place, used = pick_device(device), threads or torch.get_num_threads()
    console = Console(highlight=False)
    about = {**asdict(base), "device": str(place), "threads": used, "repeats": repeats}
    about |= {"machine": machine(place), "versions": versions()}
    console.print(heading(about), soft_wrap=True)
    todo = [(work, step) for work in dict.fromkeys(work for of in works.values() for work in of) for step in steps]
    measured: dict[tuple[Work, str], Cost] = {}
    for work, step in track(todo, "measuring", console=console, transient=True, disable=not console.is_terminal):
        given = work, step, str(place), used, repeats
        measured[work, step] = timing.in_fresh_process(model_costs.cost, *given)
    curves = [curve(axis, works[axis], base, step, measured) for axis in works for step in steps]
    console.print(_table(curves, measured, works))
    for one in curves:
        console.print(in_words(one), soft_wrap=True)
    if output:
        rows = [{**asdict(work), **asdict(found), "median": found.median} for (work, _), found in measured.items()]
        figures = [{**asdict(one), "fit": asdict(one.line), "doubled": one.doubled} for one in curves]
        output.write_text(json.dumps({**about, "rows": rows, "curves": figures}, indent=2) + "\n")
    if plot:
        from vertebra.tools.cost_fits import draw

        draw(plot, curves, heading(about).splitlines()[0])
    if page:
        write_between(page, MARK, heading(about).replace("\n", "; ") + ".\n\n" + as_markdown(curves))


def chosen_axes(base: Work, names: str | None) -> list[str]:
    """Return the axes that the user names; by default those that the head has."""
    from vertebra.backbones import InputError
    from vertebra.backbones.errors import unknown

    there = [name for name in AXES if name != "objects" or base.detects]
    chosen = names.split(",") if names else there
    for name in chosen:
        if name not in AXES:
            raise unknown("axis", name, AXES)
        if name not in there:
            raise InputError(f"--axes {name}: {base.head} finds no {name}; it has {', '.join(there)}")
    return chosen


def swept(base: Work, axes: Sequence[str], sweep: Sequence[str]) -> dict[str, list[Work]]:
    """Return the points of each axis, in order; the base is one of them.

    sweep: AXIS=VALUE,… of those whose values are others than by default.
    """
    from dataclasses import replace

    from vertebra.backbones import InputError, row
    from vertebra.tools.model_costs import read_count, read_size

    readers: dict[str, Callable[[str], Any]] = {"size": read_size, "backbone": lambda name: row(name) and name}
    values = {name: AXES[name].values for name in axes}
    for text in sweep:
        name, equals, given = text.partition("=")
        if not equals or name not in values:
            raise InputError(f"--sweep {text}: it is AXIS=VALUE,…, with an axis of {', '.join(values)}")
        values[name] = tuple(given.split(","))
    found = {}
    for name, texts in values.items():
        field = AXES[name].field
        read = [readers.get(field, read_count)(text) for text in texts]
        if getattr(base, field) not in read:
            read.append(getattr(base, field))
        if field != "backbone":
            read.sort()
        found[name] = [replace(base, **{field: value}) for value in dict.fromkeys(read)]
        if len(found[name]) < 3:
            raise InputError(f"{name} has the values {', '.join(texts)}; a line through them needs three with the base")
    return found


def curve(axis: str, works: Sequence[Work], base: Work, step: str, measured: Mapping[tuple[Work, str], Cost]) -> Curve:
    """Return what a step costs at the points of an axis."""
    from vertebra.tools.cost_fits import Curve

    found = [measured[work, step] for work in works]
    xs = tuple(float(AXES[axis].x(work, cost)) for work, cost in zip(works, found, strict=True))
    names = tuple(_name(axis, work) for work in works)
    seconds, memory = tuple(cost.median for cost in found), tuple(cost.memory for cost in found)
    return Curve(axis, step, AXES[axis].unit, names, xs, seconds, memory, works.index(base))


def _name(axis: str, work: Work) -> str:
    value = getattr(work, AXES[axis].field)
    return "x".join(map(str, value)) if isinstance(value, tuple) else str(value)


def in_words(curve: Curve) -> str:
    """Return a curve's fit as a sentence."""
    line = curve.line
    return (
        f"{curve.step} over {curve.axis}: {line.start:.3f} s + {line.slope:.4g} s x {curve.unit} (R² {line.r2:.3f}); "
        f"twice the {curve.unit} of {curve.names[curve.base]} take {curve.doubled:.2f} times as long"
    )


def heading(about: Mapping[str, Any]) -> str:
    """Return what was measured, and on what."""
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    height, width = about["size"]
    return (
        f"{about['head']} on {about['backbone']}, {about['batch_size']} x 3 x {height} x {width}, "
        f"{about['objects']} objects, {about['classes']} classes, float32\n"
        f"{about['machine']} ({about['device']}), {about['threads']} threads\n{versions}"
    )


def as_markdown(curves: Sequence[Curve]) -> str:
    """Return the fits as a table for a page."""
    from vertebra.tools.marked import markdown

    rows = []
    for one in curves:
        line, memory = one.line, one.memory_line
        seconds = ", ".join(f"{value:.2f}" for value in one.seconds)
        gigabytes = f"{memory.start:.2f} + {memory.slope:.3g} x" if memory else "–"
        fitted = f"{line.start:.3f} + {line.slope:.3g} x"
        points = f"{one.unit}: {', '.join(one.names)}"
        rows.append((points, one.step, seconds, fitted, f"{line.r2:.3f}", f"{one.doubled:.2f}", gigabytes))
    columns = ("x", "step", "seconds", "line, s", "R²", "twice the base's x", "memory, GB")
    table: str = markdown(columns, rows, left=2)
    return table


def _table(
    curves: Sequence[Curve], measured: Mapping[tuple[Work, str], Cost], works: Mapping[str, Sequence[Work]]
) -> Any:
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False, caption_justify="left")
    table.caption = "found: objects in an image; GFLOP: of inference on an image"
    for column in ("axis", "at", "step", "seconds", "min", "max", "images/s", "MB", "GFLOP", "found"):
        table.add_column(column, justify="left" if column in ("axis", "at", "step") else "right")
    for one in curves:
        for i, work in enumerate(works[one.axis]):
            cost = measured[work, one.step]
            seconds = (cost.median, min(cost.seconds), max(cost.seconds))
            table.add_row(
                one.axis if i == 0 else "",
                one.names[i],
                one.step if i == 0 else "",
                *(f"{value:.3f}" for value in seconds),
                f"{work.batch_size / cost.median:.2f}",
                "–" if cost.memory is None else f"{cost.memory / 1e6:.0f}",
                f"{cost.flop / 1e9:.1f}",
                "–" if cost.found is None else f"{cost.found:g}",
                end_section=i + 1 == len(works[one.axis]),
            )
    return table


if __name__ == "__main__":
    from vertebra.tools.cli import run

    run(lambda: typer.run(costs))
