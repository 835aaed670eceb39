"""`vertebra backbones convert`: weights of a backbone from and to other frameworks."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from vertebra.tools.options import Imports


class Layout(StrEnum):
    """Whose keys a file has."""

    VERTEBRA = "vertebra"
    DETECTRON2 = "detectron2"
    MMDET = "mmdet"
    TORCHVISION = "torchvision"
    TIMM = "timm"


class Order(StrEnum):
    """Of the channels of images."""

    RGB = "rgb"
    BGR = "bgr"


Three = tuple[float, float, float]


def convert(
    source: Annotated[str, typer.Argument(help="A file of weights, a detector's checkpoint, or the folder of a run.")],
    target: Annotated[Path, typer.Argument(help="The file to write; it must not exist.")],
    backbone: Annotated[str | None, typer.Option(metavar="NAME", help="Our name of the network; a run knows.")] = None,
    layout: Annotated[Layout | None, typer.Option("--from", help="Whose keys it has; found by the keys.")] = None,
    to: Annotated[Layout, typer.Option(help="For whom it is written.")] = Layout.VERTEBRA,
    channels: Annotated[Order | None, typer.Option(help="Of the source's images, where the file does not say.")] = None,
    mean: Annotated[Three | None, typer.Option(help="Of its images, in its framework's units.")] = None,
    std: Annotated[Three | None, typer.Option(help="Of its images, in its framework's units.")] = None,
    eps: Annotated[float | None, typer.Option(help="Of its norms; 1e-5 by default.")] = None,
    prefix: Annotated[str | None, typer.Option(help="Of the backbone's keys, where a file holds several.")] = None,
    imports: Imports = [],  # noqa: B006
) -> None:
    """Convert weights between vertebra and detectron2, mmdetection, timm, torchvision.

    The backbone is taken out of a detector's checkpoint. Features are compared with those of the framework's own
    network, where it is installed, and nothing is written where they differ.
    """
    from vertebra.backbones.exchange import convert as carry
    from vertebra.tools.build import import_modules

    import_modules(imports)
    given: dict[str, Any] = {"channels": channels and channels.value, "mean": mean, "std": std}
    done = carry(
        source,
        target,
        backbone or _of_run(Path(source)),
        layout=layout and layout.value,
        to=to.value,
        eps=eps,
        prefix=prefix,
        **given,
    )
    print(*done.lines(), sep="\n")


def _of_run(folder: Path) -> str:
    """Return the backbone of a run."""
    from vertebra.backbones import InputError
    from vertebra.tools.run import open_run

    if not folder.is_dir():
        raise InputError(f"{folder} does not say which network it holds: give its name here (--backbone resnet50)")
    name: str = open_run(folder).config.choices.backbone
    return name
