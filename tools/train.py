"""`vertebra train`: train a model, or continue a run."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vertebra.tools.options import DataRoot, Imports, Overrides

if TYPE_CHECKING:
    from rich.console import Console

    from vertebra.tools.engine.processes import Processes
    from vertebra.tools.run import Run
    from vertebra.tools.settings import Config

log = logging.getLogger("vertebra")


def train(
    run_file: Annotated[
        str | None, typer.Argument(metavar="[RUN_FILE]", help="A run file by path, or by its name under configs/runs.")
    ] = None,
    head: Annotated[
        str | None,
        typer.Option(help="faster_rcnn, mask_rcnn (each also _v2, _dc5), deeplabv3, deeplabv3plus or classifier."),
    ] = None,
    backbone: Annotated[str | None, typer.Option(help="Backbone, see `vertebra backbones list`.")] = None,
    data: Annotated[
        str | None,
        typer.Option(metavar="NAME|FILE.yaml", help="coco, voc, cityscapes, imagefolder, cifar10, shapes, … or yours."),
    ] = None,
    schedule: Annotated[
        str | None,
        typer.Option(metavar="NAME|FILE.yaml", help="1x, lsj_100ep, seg_40k, …, see `vertebra schedules`, or yours."),
    ] = None,
    data_root: DataRoot = None,
    weights: Annotated[
        str | None,
        typer.Option(
            metavar="imagenet|TAG|torchvision/MODEL|FILE|RUN",
            help="Start from weights of the backbone, or of the model: then layers for other classes start afresh.",
        ),
    ] = None,
    overrides: Overrides = [],  # noqa: B006  # Typer's way to say "none"; it is never changed
    imports: Imports = [],  # noqa: B006
    output: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of the run; by default a new one under runs/.")
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Continue this run; only --set and --import go with it.")
    ] = None,
    auto_resume: Annotated[
        bool,
        typer.Option(
            "--auto-resume",
            help="Continue from the newest whole checkpoint of the run's folder, or begin where there is none: the "
            "command of a job that may be started again.",
        ),
    ] = False,
) -> None:
    """Train a model, and evaluate it on the held-out images.

    The run's folder gets the resolved settings, checkpoints, logs (JSON lines and TensorBoard), curves, the metrics,
    what was found, and pictures. On several GPUs: torchrun --nproc-per-node=8 -m vertebra.tools.train OPTIONS.
    """
    from vertebra.backbones import InputError
    from vertebra.tools.build import recorded_imports
    from vertebra.tools.config import compose
    from vertebra.tools.run import open_run

    if resume is not None:
        given = {
            "a run file": run_file, "--head": head, "--backbone": backbone, "--data": data, "--schedule": schedule,
            "--data-root": data_root, "--weights": weights, "--output": output, "--auto-resume": auto_resume or None,
        }  # fmt: skip
        extra = [name for name, value in given.items() if value is not None]
        if extra:
            raise InputError(f"--resume continues a run as it was set up; {', '.join(extra)} cannot go with it")
        _continue(open_run(resume, overrides, imports))
        return
    choices = {"head": head, "backbone": backbone, "data": data, "schedule": schedule}
    options = {"data.root": data_root and Path(data_root).resolve(), "backbone.weights": weights}
    config = compose(
        run_file,
        choices,
        recorded_imports(imports),
        [*(f"{key}={value}" for key, value in options.items() if value is not None), *overrides],
    )
    name = None if run_file is None else Path(run_file).stem
    if auto_resume:
        _continue_or_begin(config, output, name)
    else:
        _begin(config, output, name)


def _begin(config: Config, output: Path | None, name: str | None) -> None:
    from vertebra.tools import session
    from vertebra.tools.run import new_folder

    with _together(config) as (processes, console):
        folder = new_folder(config, output, name)
        processes.wait()  # else another might see the folder that the first has made
        _introduce(config, folder, console)
        session.start(config, folder, console, processes)
        console.print(f"the run is in {folder}", highlight=False)


def _continue(run: Run) -> None:
    from vertebra.tools import session
    from vertebra.tools.engine.checkpoint import read_checkpoint

    with _together(run.config) as (processes, console):
        console.print(f"continuing {run.folder}", highlight=False)
        session.resume(run, read_checkpoint(run.checkpoint), console, processes)
        console.print(f"the run is in {run.folder}", highlight=False)


def _continue_or_begin(config: Config, output: Path | None, name: str | None) -> None:
    from vertebra.tools import session
    from vertebra.tools.engine.keeping import newest_good
    from vertebra.tools.run import base_folder, continued

    folder = output or base_folder(config, name)
    with _together(config) as (processes, console):
        content = newest_good(folder, log.warning)
        if content is None:
            _introduce(config, folder, console)
            session.start(config, folder, console, processes)
        else:
            console.print(f"continuing {folder} from step {content['step']}", highlight=False)
            try:
                session.resume(continued(folder, config), content, console, processes)
            except session.Finished as done:
                console.print(str(done), highlight=False)
        console.print(f"the run is in {folder}", highlight=False)


def _introduce(config: Config, folder: Path, console: Console) -> None:
    from vertebra.tools.recipes import rate_line

    console.print(f"training {config.choices.head} on {config.choices.backbone} in {folder}", highlight=False)
    console.print(rate_line(config), highlight=False)


@contextmanager
def _together(config: Config) -> Iterator[tuple[Processes, Console]]:
    """Yield the processes of the run, and a console, on which the first of them alone prints."""
    from rich.console import Console

    from vertebra.tools.engine.processes import joined
    from vertebra.tools.engine.stopping import Interrupted

    with joined(config.engine.device, expected=(Interrupted,)) as processes:
        if not processes.main:
            log.setLevel(logging.ERROR)
        yield processes, Console(quiet=not processes.main)


if __name__ == "__main__":
    from vertebra.tools.cli import run

    run(lambda: typer.run(train))
