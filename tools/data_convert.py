"""`vertebra data convert`: a data set in another format."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from vertebra.tools.data.exchange.common import Picture


def convert(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="A folder, an annotation file, or a data set as --data takes it.")
    ],
    target: Annotated[Path, typer.Argument(metavar="TARGET", help="Folder to write, which must not exist.")],
    to: Annotated[str, typer.Option(metavar="FORMAT", help="coco, yolo, yolo-seg, voc or png.")],
    form: Annotated[
        str | None,
        typer.Option("--from", metavar="FORMAT", help="coco, yolo, voc or png; by default what SOURCE looks like."),
    ] = None,
    data_root: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="Where the data set is that SOURCE names, or the images of the file it is."),
    ] = None,
    images: Annotated[
        str, typer.Option(metavar="HOW", help="link (symbolic links), copy, or none: the annotations alone.")
    ] = "link",
) -> None:
    """Write a data set in another format.

    The source is only read. What cannot be carried over is counted and said.

    coco: annotations/PART.json, the images in PART/, and data.yaml for --data;
    ids of categories and images count from 1.

    yolo: as Ultralytics has it: images/PART/, labels/PART/*.txt with boxes, and
    data.yaml; classes count from 0. Boxes of up to four decimals come back
    exactly. yolo-seg has polygons for boxes, the parts of an object joined to
    one. Crowds are left out.

    voc: Annotations/*.xml, JPEGImages/, ImageSets/Main/, and classes.txt; boxes
    in whole pixels, counted from 1. Masks and crowds are left out. Difficult
    objects are read as objects, marked so in COCO's file.

    png: images/PART/, labels/PART/*.png, classes.txt, and data.yaml for --data.
    Labels are what segmenters learn from objects: 0 is background, the smaller
    object wins, crowds are 255. Read, each region of a class, of pixels that
    touch, is an object with its mask.
    """
    from rich.console import Console
    from rich.progress import track

    from vertebra.tools.conversion import convert as converted

    console = Console()

    def watch(pictures: Iterable[Picture], name: str, count: int) -> Iterable[Picture]:
        return track(pictures, name, total=count, console=console, disable=not console.is_terminal)

    for line in converted(source, target, to=to, form=form, root=data_root, images=images, watch=watch):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    console.print(f"the data set is in {target}", highlight=False, markup=False, soft_wrap=True)


if __name__ == "__main__":
    from vertebra.tools.cli import run as run_command

    run_command(lambda: typer.run(convert))
