"""`vertebra predict`: detect the objects in images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vertebra.tools.options import Checkpoint, Imports


def predict(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.")],
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE|FOLDER...", help="Images, or folders of images.")],
    output: Annotated[Path, typer.Option(metavar="DIR", help="Where to write; made if need be.")] = Path("predictions"),
    score: Annotated[float, typer.Option(min=0, max=1, help="Leave out detections with a lower score.")] = 0.5,
    checkpoint: Checkpoint = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    imports: Imports = [],  # noqa: B006
) -> None:
    """Detect the objects in images: a picture of each with boxes, names, scores and masks, and one predictions.json.

    predictions.json is in COCO's results format, with the category ids of the training data; images are numbered from 1
    in the order given, and each record has its `file_name` too. Images are turned as their EXIF data says. One that
    cannot be read is left out, and the exit status is then 2.
    """
    import json

    from rich.console import Console
    from rich.progress import track

    from vertebra.backbones import InputError
    from vertebra.tools.data.images import find_images
    from vertebra.tools.draw import draw_boxes, draw_masks, enlarge, write_picture
    from vertebra.tools.evaluation.coco import coco_results
    from vertebra.tools.predictor import Predictor, above, as_tensor

    console = Console()
    files = find_images(images)
    predictor = Predictor(run, checkpoint=checkpoint, device=device, imports=imports)
    results: list[dict[str, object]] = []
    failures: list[InputError] = []
    pairs = list(zip(files, picture_names(files), strict=True))
    shown = track(pairs, "predicting", console=console, disable=not console.is_terminal)
    for number, (path, name) in enumerate(shown, start=1):
        try:
            image = as_tensor(path)
        except InputError as error:
            failures.append(error)
            continue
        found = above(predictor(image), score)
        results += [{**r, "file_name": str(path)} for r in coco_results(number, found, predictor.categories)]
        labels = found["labels"].tolist()
        texts = [f"{name} {value:.2f}" for name, value in zip(found["names"], found["scores"].tolist(), strict=True)]
        large, scale = enlarge(image)
        output.mkdir(parents=True, exist_ok=True)
        picture = draw_masks(large, found.get("masks", []), labels)
        write_picture(output / name, draw_boxes(picture, found["boxes"] * scale, labels, texts))
    if len(failures) < len(files):
        (output / "predictions.json").write_text(json.dumps(results))
        count = len(files) - len(failures)
        console.print(f"{len(results)} objects in {count} images; pictures and results in {output}", highlight=False)
    if failures:
        raise InputError(f"{len(failures)} of {len(files)} images were left out; the first: {failures[0]}")


def picture_names(files: list[Path]) -> list[str]:
    """Return a file name for the picture of each image; equal ones are numbered."""
    names: list[str] = []
    for path in files:
        name, number = f"{path.stem}.jpg", 1
        while name in names:
            number += 1
            name = f"{path.stem}-{number}.jpg"
        names.append(name)
    return names


if __name__ == "__main__":
    from vertebra.tools.cli import run as run_command

    run_command(lambda: typer.run(predict))
