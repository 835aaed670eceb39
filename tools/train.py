"""`vertebra train`: train a model, or continue a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vertebra.tools.options import DataRoot, Imports, Overrides


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
        str | None, typer.Option(metavar="NAME|FILE.yaml", help="1x, seg_30ep, imagenet_90ep, cifar_200ep, … or yours.")
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
) -> None:
    """Train a model, and evaluate it on the held-out images.

    The run's folder gets the resolved settings, a checkpoint, logs (JSON lines and TensorBoard), the metrics, what was
    found, and pictures.
    """
    from rich.console import Console

    from vertebra.backbones import InputError
    from vertebra.tools import session
    from vertebra.tools.build import recorded_imports
    from vertebra.tools.config import compose
    from vertebra.tools.run import new_folder, open_run

    console = Console()
    if resume is not None:
        given = {
            "a run file": run_file, "--head": head, "--backbone": backbone, "--data": data, "--schedule": schedule,
            "--data-root": data_root, "--weights": weights, "--output": output,
        }  # fmt: skip
        extra = [name for name, value in given.items() if value is not None]
        if extra:
            raise InputError(f"--resume continues a run as it was set up; {', '.join(extra)} cannot go with it")
        run = open_run(resume, overrides, imports)
        folder = run.folder
        console.print(f"continuing {folder}", highlight=False)
        session.resume(run, console)
    else:
        choices = {"head": head, "backbone": backbone, "data": data, "schedule": schedule}
        options = {"data.root": data_root and Path(data_root).resolve(), "backbone.weights": weights}
        config = compose(
            run_file,
            choices,
            recorded_imports(imports),
            [*(f"{key}={value}" for key, value in options.items() if value is not None), *overrides],
        )
        folder = new_folder(config, output, None if run_file is None else Path(run_file).stem)
        console.print(f"training {config.choices.head} on {config.choices.backbone} in {folder}", highlight=False)
        session.start(config, folder, console)
    console.print(f"the run is in {folder}", highlight=False)


if __name__ == "__main__":
    from vertebra.tools.cli import run

    run(lambda: typer.run(train))
