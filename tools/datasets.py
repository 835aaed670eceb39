"""`vertebra data`: data sets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vertebra.tools.data_browse import browse
from vertebra.tools.data_check import check
from vertebra.tools.data_convert import convert
from vertebra.tools.data_download import download

app = typer.Typer(help="Data sets.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Data sets."""  # a callback keeps `shapes` a command of its own while it is the only one


@app.command()
def shapes(
    output: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder to write, which must not exist; by default the cache.")
    ] = None,
    train: Annotated[int, typer.Option(help="Training images.")] = 600,
    val: Annotated[int, typer.Option(help="Validation images.")] = 100,
    size: Annotated[int, typer.Option(help="Side of the images in pixels.")] = 160,
    objects: Annotated[int, typer.Option(help="Most objects in an image.")] = 5,
    seed: Annotated[int, typer.Option(help="The same seed gives the same pictures.")] = 0,
) -> None:
    """Generate circles, squares, triangles and stars on textured backgrounds, in COCO's format with exact masks."""
    from vertebra.tools.data.shapes import Shapes, cached_shapes, write_shapes

    settings = Shapes(train=train, val=val, size=size, objects=objects, seed=seed)
    typer.echo(write_shapes(settings, output) if output else cached_shapes(settings))


app.command()(browse)
app.command()(check)
app.command()(convert)
app.command()(download)


if __name__ == "__main__":
    from vertebra.tools.cli import run

    run(app)
