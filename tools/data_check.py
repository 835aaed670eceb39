"""`vertebra data check`: what is wrong with a data set, before any of it is trained on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vertebra.tools.options import DataRoot

if TYPE_CHECKING:
    from rich.console import Console

    from vertebra.tools.data.checks.files import ImageFile
    from vertebra.tools.data.checks.report import Report
    from vertebra.tools.data.checks.source import Source
    from vertebra.tools.settings import Data

    Read = Callable[[Path], ImageFile]


def check(
    data: Annotated[str | None, typer.Argument(metavar="[NAME|FILE.yaml]", help="The data set.")] = None,
    data_root: DataRoot = None,
    annotations: Annotated[
        Path | None, typer.Option(metavar="FILE.json", help="Instead of a data set: annotations in COCO's format …")
    ] = None,
    images: Annotated[Path | None, typer.Option(metavar="DIR", help="… and the folder of their images.")] = None,
    fix: Annotated[
        Path | None,
        typer.Option(metavar="OUT", help="Write mended annotations: a file, or for several splits a folder of them."),
    ] = None,
    report_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write all that was found, each place of it.")
    ] = None,
    no_images: Annotated[
        bool, typer.Option("--no-images", help="Do not read the image files; only see whether they are there.")
    ] = False,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Images read at once; by default one for each processor.")
    ] = None,
) -> None:
    """Read a whole data set, and say what is wrong with it, how bad that is, and what to do.

    Errors are what training or evaluation stops at, loses an object by, or learns wrongly from; warnings are probably
    not as they were meant; notes are good to know. The exit status is 1 where there are errors, else 0.

    --fix writes a copy of the annotations, in which what can be put right is, and what cannot is dropped: OUT.json for
    one file, the folder OUT for several. Beside it is the list of all changes, OUT.changes.json or OUT/changes.json.
    What a detector can live with stays as it is. The original is never touched, and nothing is overwritten.
    """
    import os

    from rich.console import Console

    from vertebra.backbones import InputError
    from vertebra.tools.config import read_data
    from vertebra.tools.data.checks.files import look_at, read_file
    from vertebra.tools.data.checks.kinds import ERROR
    from vertebra.tools.data.checks.opening import each_once, open_sources
    from vertebra.tools.data.checks.page import page
    from vertebra.tools.data.checks.repair import targets, write_json
    from vertebra.tools.sources import coco_files

    console = Console()
    workers = workers or os.cpu_count() or 1
    read = look_at if no_images else read_file
    if annotations is not None and images is not None and data is None and data_root is None:
        settings, files = None, [(annotations.stem, annotations, images)]
    elif data is not None and annotations is None and images is None:
        settings = read_data(data, data_root)
        files = each_once((file.split, file.annotations, file.images) for file in coco_files(settings))
    else:
        raise InputError("name either a data set, or --annotations FILE.json and --images DIR")
    if fix is not None and not files:
        raise InputError("--fix mends annotations in COCO's format, which this data set does not have")
    places = targets(files, fix) if fix is not None else []
    taken = [path.resolve() for path in (*(path for _, path, _ in files), *places)]
    if report_file is not None and report_file.resolve() in taken:
        raise InputError(f"{report_file} is a file of annotations; name another for the report")
    sources: list[Source] = []
    if settings is not None and not files:
        report = _check_labelled(settings, read, workers, console)
    else:
        sources = open_sources(files, read, workers, console)
        report = _check_annotated(settings, sources, console)
    for part in page(report):
        console.print(part, highlight=False, markup=False, soft_wrap=isinstance(part, str))
    written = report.to_json()
    if fix is not None:
        written |= _fix(settings, sources, fix, places, console)
    if report_file is not None:
        write_json(report_file, written, indent=1)
        console.print(f"the report is in {report_file}", highlight=False, markup=False, soft_wrap=True)
    if report.count(ERROR):
        raise typer.Exit(1)


def _check_annotated(data: Data | None, sources: Sequence[Source], console: Console) -> Report:
    """Check files in COCO's format, of a data set or of none."""
    from dataclasses import replace

    from vertebra.tools.data.checks.coco import check_sources, differing_categories

    report = check_sources(sources, console)
    if data is None or data.classes or data.merge:  # where classes are chosen by name, the lists may differ
        return report
    return replace(report, findings=[*report.findings, *differing_categories(sources)])


def _check_labelled(data: Data, read: Read, workers: int, console: Console) -> Report:
    """Check a data set that is not in COCO's format."""
    from dataclasses import replace
    from functools import partial

    from vertebra.tools.data.checks.content import equal_images
    from vertebra.tools.data.checks.labelled import check_samples, look_at_class, look_at_labels, look_at_record
    from vertebra.tools.data.checks.report import Report
    from vertebra.tools.sources import SPLITS, open_split

    if data.cifar is not None:
        # Without held-out images the test images are those of validation.
        names: Sequence[str] = SPLITS if data.held_out else ("train", "test")
    else:
        names = [name for name in SPLITS if getattr(data, name).images]
    parts, findings = [], []
    for name in names:
        look: Callable[[Any], Any] = look_at_record
        keys, counted = "label", "images"
        if data.cifar is None:
            has_labels = bool(getattr(data, name).labels)
            look = partial(look_at_labels if has_labels else look_at_class, read=read)
            keys, counted = ("semantic", "pixels") if has_labels else ("label", "images")
        found = open_split(replace(data, limit=None), name, (keys,))
        part, wrong = check_samples(name, found, Path(data.root or "."), look, counted, workers, console)
        parts.append(part)
        findings += wrong
    return Report(parts, [*findings, *equal_images(parts)])


def _fix(
    data: Data | None, sources: Sequence[Source], output: Path, places: Sequence[Path], console: Console
) -> dict[str, Any]:
    """Write the mended copies and the list of changes, and return what the report says of them."""
    from dataclasses import asdict, replace

    from vertebra.tools.data.checks.kinds import ERROR
    from vertebra.tools.data.checks.page import changes_table
    from vertebra.tools.data.checks.repair import list_of_changes, repair, write_json

    mended = [repair(source) for source in sources]
    changes = [change for _, made in mended for change in made]
    for (document, _), place in zip(mended, places, strict=True):
        write_json(place, document)
    listed = list_of_changes(output, places)
    write_json(listed, [asdict(change) for change in changes], indent=1)
    copies = [replace(source, document=document) for source, (document, _) in zip(sources, mended, strict=True)]
    left = _check_annotated(data, copies, console).count(ERROR)
    if changes:
        console.print(changes_table(changes), highlight=False)
    console.print(
        f"{len(changes):,} changes are listed in {listed}; the mended annotations, with {left} errors, are in "
        + ", ".join(map(str, places)),
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
    return {
        "fixed": {"files": [*map(str, places)], "errors left": left, "list of changes": str(listed)},
        "changes": [asdict(change) for change in changes],
    }


if __name__ == "__main__":
    from vertebra.tools.cli import run as run_command

    run_command(lambda: typer.run(check))
