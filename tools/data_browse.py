"""`vertebra data browse`: training samples as a model gets them, to be looked at."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vertebra.tools.options import DataRoot, Imports, Overrides

if TYPE_CHECKING:
    from vertebra.backbones import InputError
    from vertebra.tools.data.sets import DataSet, Sample
    from vertebra.tools.data.stream import Loaded
    from vertebra.tools.settings import Config, Data

log = logging.getLogger("vertebra")


def browse(
    data: Annotated[
        str,
        typer.Argument(metavar="NAME|FILE.yaml|RUN", help="A data set, or the folder of a run: the data it trains on."),
    ],
    data_root: DataRoot = None,
    head: Annotated[
        str | None, typer.Option(help="The head that learns from it; by default one that suits the data.")
    ] = None,
    split: Annotated[
        str, typer.Option(help="train: as training draws and transforms it; val, test: as evaluation has it, stored.")
    ] = "train",
    count: Annotated[int, typer.Option(min=1, help="Samples to show.")] = 24,
    seed: Annotated[int | None, typer.Option(min=0, help="That of the run: engine.seed.")] = None,
    overrides: Overrides = [],  # noqa: B006  # Typer's way to say "none"; it is never changed
    imports: Imports = [],  # noqa: B006
    output: Annotated[Path, typer.Option(metavar="DIR", help="Where to write; made if need be.")] = Path("samples"),
) -> None:
    """Show samples with what a model learns from drawn on: boxes and names, masks, classes of pixels or of images.

    Writes samples.png, a grid, and index.html, a page that opens from disk and needs nothing beside it. A sample that
    cannot be read is shown with the reason.
    """
    from rich.console import Console
    from rich.progress import track

    from vertebra.tools.sample_cards import KINDS, make_cards, shown_names
    from vertebra.tools.sample_pages import write_grid, write_page

    console = Console()
    given = {"data.root": data_root and Path(data_root).resolve(), "engine.seed": seed}
    settings = [*(f"{key}={value}" for key, value in given.items() if value is not None), *overrides]
    config, found = _open(data, data_root, head, split, settings, imports)
    keys = config.head.model.target_keys
    kind = KINDS[keys[0]]
    names = shown_names(found.categories, kind)
    shown = count if split == "train" else min(count, len(found.images))
    samples = (_drawn if split == "train" else _stored)(config, found, shown)
    cards = list(
        track(make_cards(samples, names, kind), "drawing", shown, console=console, disable=not console.is_terminal)
    )
    output.mkdir(parents=True, exist_ok=True)
    write_grid(output / "samples.png", cards, names)
    write_page(output / "index.html", cards, names, kind, title=f"{data}: {split}", about=_about(config, split))
    failed = sum(bool(card.error) for card in cards)
    note = f", {failed} of which cannot be read" if failed else ""
    console.print(
        f"{len(cards)} samples{note}: {output / 'index.html'}, {output / 'samples.png'}",
        highlight=False,
        soft_wrap=True,
    )


def _open(
    data: str, root: str | None, head: str | None, split: str, settings: Sequence[str], imports: Sequence[str]
) -> tuple[Config, DataSet]:
    """Return the settings of a run, and the split that it would train on or evaluate."""
    from vertebra.backbones import InputError
    from vertebra.tools.build import import_modules
    from vertebra.tools.config import compose, read_data
    from vertebra.tools.data.coco import CocoSet, require_masks
    from vertebra.tools.run import open_run
    from vertebra.tools.sources import open_split

    if (Path(data) / "config.yaml").is_file():
        if head is not None:
            raise InputError(f"--head {head}: {data} is a run, which has its head; leave the option out")
        config = open_run(Path(data), settings, imports).config
        return config, open_split(config.data, split, config.head.model.target_keys)
    import_modules(imports)
    choice = head or _suitable(read_data(data, root))
    config = compose(None, {"head": choice, "data": data}, imports, settings)
    found = open_split(config.data, split, config.head.model.target_keys)
    if head is not None or not isinstance(found, CocoSet):
        return config, found
    try:
        masked = require_masks(found)
    except InputError as error:
        log.warning("without masks: %s", error)
        return config, found
    return compose(None, {"head": "mask_rcnn", "data": data}, imports, settings), masked


def _suitable(data: Data) -> str:
    """Return a head that learns from data of this kind."""
    from vertebra.tools.sources import coco_files

    if data.labels.names or data.labels.names_file or data.labels.format:
        return "deeplabv3plus"
    return "faster_rcnn" if coco_files(data) else "classifier"


def _drawn(config: Config, found: DataSet, count: int) -> Iterator[tuple[int, Sample, Loaded | InputError]]:
    """Yield position, image and sample, as training goes through them."""
    from vertebra.tools.data.sampling import make_order
    from vertebra.tools.data.stream import TrainingStream
    from vertebra.tools.data.transforms import Transform

    keys, seed = config.head.model.target_keys, config.engine.seed
    order = make_order(found, config.data.sampling, seed, config.optim.batch_size)
    stream = TrainingStream(found.images, Transform(config.transforms), seed, target_keys=keys, order=order)
    for position in range(count):
        yield position, found.images[order[position]], stream[position]


def _stored(config: Config, found: DataSet, count: int) -> Iterator[tuple[int, Sample, Loaded | InputError]]:
    """Yield position, image and sample, as evaluation goes through them."""
    from vertebra.tools.data.stream import EvaluationImages

    stored = EvaluationImages(found.images, config.head.model.target_keys)
    for position in range(count):
        yield position, found.images[position], stored[position]


def _about(config: Config, split: str) -> str:
    """Return what the samples went through."""
    if split != "train":
        return f"As {config.choices.head} gets them in evaluation: as they are stored, before the model resizes them."
    transforms = ", ".join(f"{key}={value}" for key, value in asdict(config.transforms).items() if value is not None)
    return (
        f"As {config.choices.head} gets them in training, from the first on: {transforms}; seed {config.engine.seed}."
    )


if __name__ == "__main__":
    from vertebra.tools.cli import run

    run(lambda: typer.run(browse))
