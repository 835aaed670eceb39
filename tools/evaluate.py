"""`vertebra evaluate`: measure a run, a public model, or the predictions of any program."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vertebra.tools.options import Best, Checkpoint, DataRoot, Imports, Overrides, Raw

if TYPE_CHECKING:
    from rich.console import Console
    from torch import nn

    from vertebra.tools.data.sets import Category
    from vertebra.tools.settings import Config


def evaluate(
    run: Annotated[Path | None, typer.Argument(metavar="[RUN]", help="Folder of a run.")] = None,
    weights: Annotated[
        str | None,
        typer.Option(metavar="torchvision/MODEL", help="Instead of a run: a public model; by default on COCO."),
    ] = None,
    data: Annotated[
        str | None, typer.Option(metavar="NAME|FILE.yaml", help="Another data set with the same categories.")
    ] = None,
    data_root: DataRoot = None,
    split: Annotated[str, typer.Option(help="Split to evaluate on: val, train or test.")] = "val",
    checkpoint: Checkpoint = None,
    best: Best = False,
    raw: Raw = False,
    overrides: Overrides = [],  # noqa: B006
    imports: Imports = [],  # noqa: B006
    output: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where to write; by default under the run's folder.")
    ] = None,
    predictions: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Instead of a run: label PNGs that a program predicted.")
    ] = None,
    labels: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The true label PNGs of --predictions, by the same names.")
    ] = None,
    names: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Names of the classes of --labels, one in each line.")
    ] = None,
) -> None:
    """Evaluate a run or a public model on held-out images, or label PNGs against label PNGs.

    Of detectors COCO's twelve numbers are printed, of segmenters mean IoU and more by class, of classifiers top-1 and
    top-5 accuracy. The folder gets metrics.json and pictures, of detectors predictions.json in COCO's results format,
    of the others the confusion matrix.
    """
    from rich.console import Console

    from vertebra.backbones import InputError

    console = Console()
    if predictions is not None or labels is not None or names is not None:
        given = {
            "a run": run, "--weights": weights, "--data": data, "--data-root": data_root, "--checkpoint": checkpoint,
            "--best": best or None, "--raw": raw or None, "--set": overrides or None, "--import": imports or None,
        }  # fmt: skip
        extra = [name for name, value in given.items() if value is not None]
        if predictions is None or labels is None or extra:
            with_it = f"; {', '.join(extra)} cannot go with them" if extra else ""
            raise InputError(f"--predictions DIR and --labels DIR go together, without a run{with_it}")
        _compare(predictions, labels, names, output, console)
        return
    from vertebra.tools.published import published_model
    from vertebra.tools.run import chosen_checkpoint, open_run, trained_model

    overrides = [*([f"data.root={Path(data_root).resolve()}"] if data_root else []), *overrides]
    if run is not None and weights is None:
        opened = open_run(run, overrides, imports, data)
        path = chosen_checkpoint(opened, checkpoint, best)
        config, (model, categories) = opened.config, trained_model(opened, path, raw)
        folder = run
    elif weights is not None and run is None and checkpoint is None and not best and not raw:
        config, model, categories = published_model(weights, data or "coco", overrides, imports)
        folder = Path("runs") / weights.replace("/", "-")
    else:
        raise InputError(
            "name either the folder of a run, or --weights torchvision/MODEL, or --predictions DIR and --labels DIR"
        )
    parts = (data and Path(data).stem, split != "val" and split, best and "best", raw and "raw")
    name = "-".join(["evaluation", *(part for part in parts if part)])
    _measure(config, model, categories, split, output or folder / name, console)


def _measure(
    config: Config, model: nn.Module, categories: Sequence[Category], split: str, folder: Path, console: Console
) -> None:
    from vertebra.tools.build import pick_device
    from vertebra.tools.data.sets import check_categories
    from vertebra.tools.evaluation.measure import Trial, measure
    from vertebra.tools.memory import keep_freed_memory
    from vertebra.tools.sources import open_split

    settings = config.engine
    device = pick_device(settings.device)
    if device.type == "cpu":
        keep_freed_memory()
    found = open_split(config.data, split, config.head.model.target_keys)
    check_categories(found, categories)
    trial = Trial(
        model.to(device),
        found,
        categories,
        folder,
        pictures=settings.pictures,
        device=device,
        workers=settings.workers,
        console=console,
    )
    _, summary = measure(trial)
    console.print(summary, highlight=False)
    console.print(f"metrics, results and pictures are in {trial.folder}", highlight=False)


def _compare(predictions: Path, labels: Path, names: Path | None, output: Path | None, console: Console) -> None:
    import json

    from vertebra.tools.data.formats import read_names
    from vertebra.tools.evaluation.label_folders import evaluate_label_folders

    metrics, summary = evaluate_label_folders(predictions, labels, None if names is None else read_names(names))
    console.print(summary, highlight=False)
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
        (output / "metrics.json").write_text(json.dumps({**metrics, "summary": summary}, indent=2) + "\n")
        console.print(f"metrics are in {output}", highlight=False)


if __name__ == "__main__":
    from vertebra.tools.cli import run as run_command

    run_command(lambda: typer.run(evaluate))
