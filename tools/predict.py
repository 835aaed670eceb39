"""`vertebra predict`: what a model finds in images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vertebra.tools.options import Best, Checkpoint, Imports, Raw


def predict(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.")],
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE|FOLDER...", help="Images, or folders of images.")],
    output: Annotated[Path, typer.Option(metavar="DIR", help="Where to write; made if need be.")] = Path("predictions"),
    score: Annotated[
        float | None, typer.Option(min=0, max=1, help="Leave out detections with a lower score; by default 0.5.")
    ] = None,
    top: Annotated[
        int | None, typer.Option(min=1, help="So many classes of each image, of a classifier; by default 5.")
    ] = None,
    checkpoint: Checkpoint = None,
    best: Best = False,
    raw: Raw = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    imports: Imports = [],  # noqa: B006
) -> None:
    """Find the objects in images, label their pixels, or name their class, as the run's model does.

    Detectors: a picture of each image with boxes, names, scores and masks, and one predictions.json in COCO's results
    format, with the category ids of the training data; images are numbered from 1 in the order given, and each record
    has its `file_name` too. Segmenters: of each image a label PNG with the ids of the training data and an overlay with
    a legend, and areas.csv with the pixels of each class. Classifiers: classes.csv with the likeliest classes.

    Images are turned as their EXIF data says. One that cannot be read is left out, and the exit status is then 2.
    """
    from rich.console import Console
    from rich.progress import track

    from vertebra.backbones import InputError
    from vertebra.tools.data.images import find_images
    from vertebra.tools.findings import FINDINGS, Findings
    from vertebra.tools.memory import keep_freed_memory
    from vertebra.tools.predictor import Predictor, as_tensor

    console = Console()
    predictor = Predictor(run, checkpoint=checkpoint, best=best, raw=raw, device=device, imports=imports)
    files = find_images(images, predictor.files.suffixes)
    if predictor.device.type == "cpu":
        keep_freed_memory()
    findings: Findings = FINDINGS[predictor.model.target_keys[0]](output, predictor.categories, score, top)
    failures: list[InputError] = []
    pairs = list(zip(files, own_names(files), strict=True))
    for path, name in track(pairs, "predicting", console=console, disable=not console.is_terminal):
        try:
            image = as_tensor(path, predictor.files)
        except InputError as error:
            failures.append(error)
            continue
        output.mkdir(parents=True, exist_ok=True)
        findings.add(path, name, image, predictor(image))
    if len(failures) < len(files):
        console.print(f"{findings.finish()} in {output}", highlight=False)
    if failures:
        raise InputError(f"{len(failures)} of {len(files)} images were left out; the first: {failures[0]}")


def own_names(files: list[Path]) -> list[str]:
    """Return a name for the files of each image, without suffix; equal ones are numbered."""
    names: list[str] = []
    for path in files:
        name, number = path.stem, 1
        while name in names:
            number += 1
            name = f"{path.stem}-{number}"
        names.append(name)
    return names


if __name__ == "__main__":
    from vertebra.tools.cli import run as run_command

    run_command(lambda: typer.run(predict))
