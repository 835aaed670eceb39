"""The command `vertebra`: gathers the verbs, and prints what the user can mend as one line."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable

import typer

# Absolute, as in all entry files: `python tools/train.py` runs them outside the package.
from vertebra.tools import benchmark, catalogue, datasets
from vertebra.tools.curves import curves
from vertebra.tools.evaluate import evaluate
from vertebra.tools.export import export
from vertebra.tools.predict import predict
from vertebra.tools.replay import replay
from vertebra.tools.schedule_curves import schedules
from vertebra.tools.train import train

app = typer.Typer(
    help="Detection, segmentation and classification on any backbone: train, evaluate, predict.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",  # paragraphs are filled; in the other modes lines break where the source does
    pretty_exceptions_enable=False,
)
app.command()(train)
app.command()(evaluate)
app.command()(predict)
app.command()(export)
app.command()(curves)
app.command()(schedules)
app.command()(replay)
app.add_typer(catalogue.app, name="backbones")
app.add_typer(datasets.app, name="data")
app.add_typer(benchmark.app, name="benchmark")


def main() -> None:
    """Run the command line."""
    run(app)


class _AsErrors(logging.Formatter):
    """Warnings look as errors do; the names of levels stay as other libraries' formats expect them."""

    def format(self, record: logging.LogRecord) -> str:
        return f"{record.levelname.lower()}: {record.getMessage()}"


def run(command: Callable[[], object]) -> None:
    """Run a command; what the user can mend ends it with one line and status 2, a signal with its own."""
    lines = logging.StreamHandler()
    lines.setFormatter(_AsErrors())
    logging.basicConfig(handlers=[lines], level=logging.WARNING)
    try:
        command()
    except Exception as error:
        # Here, so that --help need not wait for torch.
        from vertebra.backbones import InputError
        from vertebra.tools.engine.stopping import Interrupted

        if isinstance(error, InputError):
            print(f"error: {error}", file=sys.stderr)
            sys.exit(2)
        if isinstance(error, Interrupted):
            print(error, file=sys.stderr)
            sys.exit(error.status)
        raise


if __name__ == "__main__":
    main()
