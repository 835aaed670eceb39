"""`vertebra backbones`: what the registry holds, each network stage by stage, and the proof of its figures."""

from __future__ import annotations

import sys
from collections.abc import Callable
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vertebra.tools.backbones_convert import convert
from vertebra.tools.degradation import degradation
from vertebra.tools.options import Imports

if TYPE_CHECKING:
    from vertebra.tools.facts import Facts

app = typer.Typer(help="What the registry of backbones holds, and the proof of it.", no_args_is_help=True)
app.command()(degradation)
app.command()(convert)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


class Order(StrEnum):
    """What `list` may be sorted by."""

    NAME = "name"
    PARAMETERS = "parameters"
    MULTIPLY_ADDS = "multiply-adds"
    TOP1 = "top1"


_KEYS: dict[Order, Callable[[Facts], float]] = {
    Order.NAME: lambda facts: 0,  # the order that they come in
    Order.PARAMETERS: lambda facts: facts.with_classifier,
    Order.MULTIPLY_ADDS: lambda facts: facts.multiply_adds,
    Order.TOP1: lambda facts: -(facts.top1 or 0),
}


def table_row(facts: Facts) -> tuple[str, str, str, str, str]:
    """Return name, parameters, multiply-adds, features and public weights as text."""
    features = "  ".join(f"{name} {channels}@{stride}" for name, channels, stride in facts.features)
    weights = "–"
    if facts.weights:
        weights = facts.weights[0] + (f" {facts.top1:.1f}" if facts.top1 else "")
        weights += f", {len(facts.weights) - 1} more" if len(facts.weights) > 1 else ""
    return facts.name, f"{facts.with_classifier:,}", _cost(facts), features, weights


def _cost(facts: Facts) -> str:
    return f"{facts.multiply_adds / 1e9:.2f} G @{facts.size}"


COLUMNS = ("name", "parameters", "multiply-adds", "features (channels@stride)", "public weights, ImageNet top-1")


def markdown(rows: list[Facts]) -> str:
    """Return the table as the README has it."""
    lines = [COLUMNS, ("---", "--:", "--:", "---", "---"), *map(table_row, rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


@app.command("list")
def list_(
    pattern: Annotated[
        str, typer.Argument(help="Shell pattern of names, such as 'resnet*' or 'timm/convnext*'.")
    ] = "*",
    sort: Annotated[Order, typer.Option(help="Order of the rows.")] = Order.NAME,
    pretrained: Annotated[bool, typer.Option("--pretrained", help="Only those with public weights.")] = False,
    as_json: AsJson = False,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Print the README's table.")] = False,
    imports: Imports = [],  # noqa: B006
) -> None:
    """List backbones: parameters and multiply-adds with their classifier, features, public weights."""
    from rich.console import Console
    from rich.table import Table

    from vertebra.backbones import InputError
    from vertebra.tools.facts import listed, to_json

    if imports:
        from vertebra.tools.build import import_modules

        import_modules(imports)
    found = listed(pattern)
    if not found:
        raise InputError(f"no backbone matches {pattern!r}; without a pattern all are listed")
    rows = sorted((facts for facts in found if facts.weights or not pretrained), key=_KEYS[sort])
    if as_json or as_markdown:
        sys.stdout.write(to_json(rows) if as_json else markdown(rows))
        return
    table = Table(box=None, header_style="bold", pad_edge=False, caption_justify="left")
    table.caption = "top-1: of the best public ImageNet weights; `show NAME` lists them all"
    for column in ("name", "parameters", "multiply-adds", "channels", "strides", "top-1"):
        table.add_column(column, justify="left" if column in ("name", "channels") else "right", overflow="fold")
    for row in rows:
        table.add_row(*_short_row(row))
    Console(highlight=False).print(table)


def _short_row(facts: Facts) -> tuple[str, ...]:
    """Return what fits a terminal of 80 columns."""
    strides = [stride for _, _, stride in facts.features]
    return (
        facts.name,
        f"{facts.with_classifier / 1e6:.2f} M",
        _cost(facts),
        " ".join(str(channels) for _, channels, _ in facts.features),
        f"{strides[0]}–{strides[-1]}",
        f"{facts.top1:.1f}" if facts.top1 else "yes" if facts.weights else "–",
    )


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="Name of a backbone.")],
    gradients: Annotated[
        bool, typer.Option("--gradients", help="Gradient norm by depth, before and after --steps.")
    ] = False,
    steps: Annotated[int, typer.Option(help="Training steps on generated pictures, for --gradients.")] = 20,
    as_json: AsJson = False,
    imports: Imports = [],  # noqa: B006
) -> None:
    """Show a backbone stage by stage, and its public weights."""
    import json
    from dataclasses import asdict

    from rich.console import Console
    from rich.table import Table

    from vertebra.backbones import weights_records
    from vertebra.tools.build import import_modules
    from vertebra.tools.counting import stage_facts
    from vertebra.tools.facts import facts

    import_modules(imports)
    found, stages, records = facts(name), stage_facts(name), weights_records(name)
    norms = _gradients(name, steps) if gradients else None
    if as_json:
        content: dict[str, Any] = {**asdict(found), "stages": [asdict(s) for s in stages]}
        content["records"] = [asdict(record) for record in records]
        if norms:
            content["gradients"] = [{"block": b, "initial": i, "final": f} for b, i, f in norms]
        print(json.dumps(content, indent=2))
        return
    console = Console(highlight=False)
    console.print(
        f"[bold]{name}[/]  {found.parameters:,} parameters, {found.with_classifier:,} with its classifier, "
        f"{found.multiply_adds / 1e9:.2f} G multiply-adds at {found.size}x{found.size}"
    )
    table = Table(box=None, header_style="bold")
    for column in ("step", "of", "output", "feature", "parameters", "multiply-adds"):
        table.add_column(column, justify="left" if column in ("step", "of", "feature") else "right")
    for s in stages:
        of = f"{s.blocks} x {s.kind}" if s.blocks > 1 else s.kind
        output = f"{s.channels} x {s.height} x {s.width}"
        table.add_row(s.name, of, output, s.feature or "", f"{s.parameters:,}", f"{s.multiply_adds / 1e6:,.1f} M")
    console.print(table)
    if not records:
        console.print("no public weights: train from scratch, or give a file")
    for r in records:
        top1 = f"{r.top1:.2f} at {r.input_size}" if r.top1 else f"at {r.input_size}"
        console.print(f"  {r.tag}  {top1}  {r.licence}  {r.url}", soft_wrap=True)
    if norms:
        _print_gradients(console, norms, steps)


def _gradients(name: str, steps: int) -> list[tuple[str, float, float]]:
    """Return each block's gradient norm at initialisation and after some steps."""
    import torch

    from vertebra.backbones import InputError, create_backbone
    from vertebra.tools.data.shapes import SHAPES
    from vertebra.tools.gradients import PooledClassifier, gradient_norms, shape_pictures, shuffled, train, warm_up

    if steps < 1:
        raise InputError(f"steps={steps}: at least 1 is needed")
    torch.manual_seed(0)
    model = PooledClassifier(create_backbone(name), len(SHAPES))
    images, labels = shape_pictures(32 * 8, seed=0)
    before = gradient_norms(model, images[:32], labels[:32])
    batches = shuffled(images, labels, steps=steps, size=32, seed=0)
    for _ in train(model, batches, rate=warm_up(0.02, steps // 10)):
        pass
    after = gradient_norms(model, images[:32], labels[:32])
    return [(block, first, last) for (block, first), (_, last) in zip(before, after, strict=True)]


def _print_gradients(console: Any, norms: list[tuple[str, float, float]], steps: int) -> None:
    from math import log10

    from rich.table import Table

    smallest = min(min(i, f) for _, i, f in norms if min(i, f) > 0)
    largest = max(max(i, f) for _, i, f in norms)
    table = Table(
        "block", "at initialisation", f"after {steps} steps", box=None, header_style="bold",
        title="gradient norm by depth, from the input on (bars: logarithmic)", title_justify="left",
    )  # fmt: skip

    def bar(value: float) -> str:
        share = log10(value / smallest) / max(log10(largest / smallest), 1e-9) if value > 0 else 0
        return f"{value:9.2e} {'█' * (1 + round(23 * share))}"

    for block, first, last in norms:
        table.add_row(block, bar(first), bar(last))
    console.print(table)


@app.command()
def verify(
    names: Annotated[list[str] | None, typer.Argument(help="Names or shell patterns; all by default.")] = None,
    as_json: AsJson = False,
) -> None:
    """Prove backbones: counts against the published, features against torchvision's and timm's with equal weights.

    Exits with status 1 where anything is not equal.
    """
    import json
    from dataclasses import asdict

    from rich.console import Console

    from vertebra.backbones import list_backbones
    from vertebra.tools.verify import verify as prove

    chosen = [n for pattern in names or ["*"] for n in (list_backbones(pattern) or [pattern])]
    console = Console(highlight=False, soft_wrap=True)
    verdicts = []
    for name in chosen:
        verdicts.append(prove(name))
        if not as_json:
            console.print(_verdict_line(verdicts[-1]))
    if as_json:
        print(json.dumps([{**asdict(v), "faults": v.faults} for v in verdicts], indent=2))
    if any(v.faults for v in verdicts):
        raise SystemExit(1)


def _verdict_line(verdict: Any) -> str:
    name, parameters, cost, features, _ = table_row(verdict.facts)
    published = "no published count"
    if verdict.published is not None:
        published = f"{verdict.facts.with_classifier - verdict.published:+,} to {verdict.source}"
    differences = ", ".join(
        f"{library} {value:.0e}" for library, value in (("torchvision", verdict.torchvision), ("timm", verdict.timm))
        if value is not None
    )  # fmt: skip
    mark = "[red]" + "; ".join(verdict.faults) + "[/]" if verdict.faults else "[green]ok[/]"
    return f"{name:20} {parameters:>12} ({published})  {cost:>13}  {features}  {differences or 'no peer'}  {mark}"


if __name__ == "__main__":
    from vertebra.tools.cli import run

    run(app)
