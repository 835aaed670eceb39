"""`vertebra predict`: what a model finds in images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vertebra.tools.options import Best, Checkpoint, Imports, Raw

if TYPE_CHECKING:
    from vertebra.tools.data.image_list import ImageFile
    from vertebra.tools.data.sets import Category


def predict(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.")],
    given: Annotated[
        list[Path],
        typer.Argument(
            metavar="IMAGE|FOLDER|PATTERN|LIST.json...",
            help="Images, folders of images, quoted patterns as 'photos/**/*.jpg'; or an image list of COCO's, alone.",
        ),
    ],
    output: Annotated[Path, typer.Option(metavar="DIR", help="Where to write; made if need be.")] = Path("predictions"),
    images: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where the images of LIST.json lie; by default beside it.")
    ] = None,
    score: Annotated[
        float | None, typer.Option(min=0, max=1, help="Leave out detections with a lower score; by default 0.5.")
    ] = None,
    top: Annotated[
        int | None,
        typer.Option(min=1, help="At most so many detections of an image; of a classifier so many classes, 5."),
    ] = None,
    pictures: Annotated[
        bool, typer.Option("--pictures/--no-pictures", help="Draw what was found, or save the time.")
    ] = True,
    masks: Annotated[
        bool, typer.Option("--masks", help="A map of the objects of each image too, as a PNG of 16 bits, with a list.")
    ] = False,
    batch_size: Annotated[int, typer.Option(min=1, help="Images of one size that go through the model together.")] = 1,
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

    An image list, as COCO's image_info_test-dev2017.json, gives results to submit: with its own image ids, and with
    every detection, so that --score and --top are for pictures and maps alone.

    Images are turned as their EXIF data says, those of an image list are not. One that cannot be read is named and left
    out, and the exit status is then 2. In batches results differ in their last digits.
    """
    from rich.console import Console

    from vertebra.backbones import InputError
    from vertebra.tools.findings import Wanted, new_findings
    from vertebra.tools.memory import keep_freed_memory
    from vertebra.tools.predict_images import Prediction
    from vertebra.tools.predictor import Predictor

    console = Console()
    listed = any(path.suffix.lower() == ".json" for path in given)
    if images is not None and not listed:
        raise InputError(f"--images {images} is where the images of an image list (LIST.json) lie; none was given")
    predictor = Predictor(run, checkpoint=checkpoint, best=best, raw=raw, device=device, imports=imports)
    wanted = Wanted(score, top, pictures, masks, listed)
    findings = new_findings(predictor.model.target_keys, output, predictor.categories, wanted)
    files = _listed(given, images, predictor.categories) if listed else _found(given, predictor.files.suffixes)
    _check_output(output, files)
    if predictor.device.type == "cpu":
        keep_freed_memory()
    prediction = Prediction(predictor, findings, output, batch_size, console)
    summary = prediction.run(files)
    if summary:
        console.print(f"{summary} in {output}", highlight=False, markup=False, soft_wrap=True)
    if prediction.left_out:
        raise InputError(f"{prediction.left_out} of {len(files)} images could not be predicted on and were left out")


def _found(given: Sequence[Path], suffixes: Sequence[str]) -> list[ImageFile]:
    from vertebra.tools.data.image_list import numbered
    from vertebra.tools.data.images import find_images

    files: list[ImageFile] = numbered(find_images(given, suffixes))
    return files


def _listed(given: Sequence[Path], folder: Path | None, categories: Sequence[Category]) -> list[ImageFile]:
    import logging

    from vertebra.backbones import InputError
    from vertebra.tools.data.image_list import read_image_list

    if len(given) > 1:
        raise InputError(
            f"{', '.join(map(str, given[:3]))} came together; an image list goes alone, as its images have ids of "
            "their own"
        )
    source = given[0]
    if not source.is_file():
        raise InputError(f"no image list at {source}")
    found = read_image_list(source, source.parent if folder is None else folder)
    log = logging.getLogger("vertebra")
    missing = [image.file_name for image in found.images if not image.path.is_file()]
    if missing:
        place = source.parent if folder is None else folder
        log.warning(
            "%d of the %d images of %s are not in %s (first: %r)",
            len(missing),
            len(found.images),
            source,
            place,
            missing[0],
        )
    odd = {*found.categories} ^ {*categories}
    if found.categories and odd:
        log.warning(
            "%s has other categories than the model's %d (%s): results have the model's ids",
            source,
            len(categories),
            ", ".join(sorted({category.name for category in odd})[:5]),
        )
    return list(found.images)


def _check_output(output: Path, files: Sequence[ImageFile]) -> None:
    """Refuse a folder whose images would be written over."""
    from vertebra.backbones import InputError

    if output.resolve() in {parent.resolve() for parent in {file.path.parent for file in files}}:
        raise InputError(
            f"--output {output} has images to predict on, which pictures could be written over; choose another folder"
        )


if __name__ == "__main__":
    from vertebra.tools.cli import run as run_command

    run_command(lambda: typer.run(predict))
