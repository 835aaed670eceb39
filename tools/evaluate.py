"""`vertebra evaluate`: measure a run with COCO's metrics."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vertebra.tools.options import Checkpoint, DataRoot, Imports, Overrides


def evaluate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.")],
    data: Annotated[
        str | None, typer.Option(metavar="NAME|FILE.yaml", help="Another data set with the same categories.")
    ] = None,
    data_root: DataRoot = None,
    split: Annotated[str, typer.Option(help="Split to evaluate on: val or train.")] = "val",
    checkpoint: Checkpoint = None,
    overrides: Overrides = [],  # noqa: B006
    imports: Imports = [],  # noqa: B006
    output: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where to write; by default under the run's folder.")
    ] = None,
) -> None:
    """Evaluate a run on held-out images; print COCO's twelve numbers.

    Writes metrics.json, predictions.json (COCO results, with the data set's own ids) and pictures.
    """
    from rich.console import Console

    from vertebra.backbones import InputError
    from vertebra.tools.build import open_split, pick_device
    from vertebra.tools.data.coco import check_categories
    from vertebra.tools.evaluation.coco import evaluate as detect_all
    from vertebra.tools.evaluation.report import write_evaluation
    from vertebra.tools.run import open_run, trained_model

    if split not in ("train", "val"):
        raise InputError(f"--split {split!r}; it can be val or train")
    root = [f"data.root={Path(data_root).resolve()}"] if data_root else []
    opened = open_run(run, [*root, *overrides], imports, data)
    device = pick_device(opened.config.engine.device)
    found = open_split(opened.config.data, split)
    model, categories = trained_model(opened, checkpoint)
    check_categories(found, categories)
    console = Console()
    workers = opened.config.engine.workers
    evaluator = detect_all(model.to(device), found, categories, device=device, workers=workers, console=console)
    name = "-".join(["evaluation", *([Path(data).stem] if data else []), *([split] if split != "val" else [])])
    folder = output or run / name
    _, summary = write_evaluation(folder, evaluator, found, opened.config.engine.pictures)
    console.print(summary, highlight=False)
    console.print(f"metrics, results and pictures are in {folder}", highlight=False)


if __name__ == "__main__":
    from vertebra.tools.cli import run as run_command

    run_command(lambda: typer.run(evaluate))
