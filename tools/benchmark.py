"""`vertebra benchmark`: seconds, side by side with the libraries that do the same."""

from __future__ import annotations

import typer

from vertebra.tools.annotation_benchmark import annotation_costs
from vertebra.tools.backbone_speed import backbones
from vertebra.tools.cost_curves import costs
from vertebra.tools.data_benchmark import data
from vertebra.tools.engine_benchmark import engine
from vertebra.tools.evaluation_benchmark import evaluation
from vertebra.tools.model_benchmark import model
from vertebra.tools.process_scaling import processes

app = typer.Typer(help="Measure speed side by side with the libraries that do the same.", no_args_is_help=True)

app.command()(data)
app.command("annotations")(annotation_costs)
app.command()(engine)
app.command()(evaluation)
app.command()(model)
app.command()(costs)
app.command()(backbones)
app.command()(processes)


def size_of(text: str) -> tuple[int, int]:
    """Read (height, width) from HxW."""
    from vertebra.backbones import InputError

    height, cross, width = text.partition("x")
    if not (cross and height.isdigit() and width.isdigit()):
        raise InputError(f"--size {text!r}; it is HxW, such as 480x640")
    return int(height), int(width)


if __name__ == "__main__":
    from vertebra.tools.cli import run

    run(app)
