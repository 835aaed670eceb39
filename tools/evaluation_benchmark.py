"""`vertebra benchmark evaluation`: what COCO's metrics cost in time and memory."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def evaluation(
    images: Annotated[int, typer.Option(min=1, help="Images.")] = 5000,
    objects: Annotated[int, typer.Option(min=1, help="Objects in all images together.")] = 36_781,
    detections: Annotated[int, typer.Option(min=1, help="Detections in all images together.")] = 500_000,
    categories: Annotated[int, typer.Option(min=1, help="Categories.")] = 80,
    kinds: Annotated[str, typer.Option(metavar="KIND,…", help="Of bbox (boxes) and segm (masks).")] = "bbox,segm",
    folder: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where to write the files; by default a temporary folder.")
    ] = None,
    output: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the figures here too.")] = None,
) -> None:
    """Measure the evaluation of detections beside pycocotools, each in a process of its own; Linux only.

    The set is generated, by default as large as COCO's val2017 with a hundred detections of each image: boxes of all
    sizes, some near an object and of its class; masks are uneven ellipses. `read` is the time to read both files and
    check them, `score` that for COCO's numbers (ours: and those of each class); `MB` is the peak of memory of the whole
    process. `differ` is the largest difference between COCO's twelve numbers.
    """
    import json
    import tempfile
    from dataclasses import asdict

    from rich.console import Console

    from vertebra.backbones import InputError
    from vertebra.tools.engine.checkpoint import versions
    from vertebra.tools.evaluation_speed import PROGRAMS, Size, measure, table, write_synthetic

    console = Console(highlight=False)
    chosen = kinds.split(",")
    if not set(chosen) <= {"bbox", "segm"}:
        raise InputError(f"--kinds {kinds}: bbox, segm, or both with a comma between them are expected")
    size = Size(images, objects, detections, categories)
    costs = []
    with tempfile.TemporaryDirectory(dir=folder) as place:
        for kind in chosen:
            write_synthetic(Path(place), size, kind)
            for program in PROGRAMS:
                costs.append(measure(program, kind, Path(place)))
                console.print(f"{kind}: {program} is measured", style="dim")
    console.print(f"{images:,} images, {objects:,} objects, {detections:,} detections, {categories} categories")
    console.print(table(costs))
    if output:
        about = {**asdict(size), "versions": versions(), "costs": [asdict(cost) for cost in costs]}
        output.write_text(json.dumps(about, indent=2) + "\n")
