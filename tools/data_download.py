"""`vertebra data download`: the official archives of a data set."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from vertebra.tools.data.download import Watch


def download(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The data set: coco.")],
    root: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where it will lie; by default data/NAME, where --data looks.")
    ] = None,
    parts: Annotated[
        str | None,
        typer.Option(metavar="PART,…", help="Of train, val, annotations and stuff; by default all but stuff."),
    ] = None,
    base_url: Annotated[str | None, typer.Option(metavar="URL", help="A mirror that has the same paths.")] = None,
) -> None:
    """Download the official archives of a data set, and unpack them for --data.

    They are checked by size and MD5 sum, and removed when they are unpacked. What
    is there already is left alone. A download that was stopped or cut goes on
    where it was when the same command is given again.
    """
    from rich.console import Console

    from vertebra.backbones import InputError
    from vertebra.backbones.errors import unknown
    from vertebra.tools.data.archives import SOURCES, choose, fetch

    if name not in SOURCES:
        raise unknown("data set to download", name, SOURCES)
    source = SOURCES[name]
    url, place = (base_url or source.url).rstrip("/"), root or Path(source.root)
    if not url.startswith(("http://", "https://")):
        raise InputError(f"--base-url {url!r}; an address that begins with http:// or https:// is needed")
    chosen = [part.strip() for part in parts.split(",")] if parts is not None else source.default
    console = Console()

    def tell(line: str) -> None:
        console.print(line, highlight=False, markup=False, soft_wrap=True)

    for archive in choose(source, chosen, place):
        tell(f"{archive.name}: {archive.size / 1e9:.2f} GB from {url}/{archive.path}")
        try:
            with _bars(console) as watch:
                fetch(archive, place, url, watch=watch, tell=tell)
        except KeyboardInterrupt:
            from vertebra.tools.engine.stopping import Interrupted

            advice = f"stopped; what has come of {archive.name} is kept, the same command goes on"
            raise Interrupted(advice, signal.SIGINT) from None
        tell(f"{archive.name} is unpacked")
    tell(f"{place} holds {', '.join(chosen)} of {name}; --data {name} --data-root {place} takes them")


@contextmanager
def _bars(console: Console) -> Iterator[Watch]:
    """Show the tasks of an archive as bars, with their rate and the time that is left, where there is a terminal."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn()
    with Progress(*columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal) as progress:

        def watch(task: str, size: int) -> Callable[[int], None]:
            id = progress.add_task(task, total=size)
            return lambda done: progress.update(id, completed=done)

        yield watch


if __name__ == "__main__":
    from vertebra.tools.cli import run as run_command

    run_command(lambda: typer.run(download))
