"""`vertebra benchmark annotations`: what the annotations of large data sets cost in time and memory."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def annotation_costs(
    images: Annotated[int, typer.Option(min=1, help="Images in the largest file.")] = 1_000_000,
    objects: Annotated[int, typer.Option(min=1, help="Objects in each image.")] = 10,
    workers: Annotated[int, typer.Option(min=1, help="Loader workers whose memory is measured.")] = 8,
    samples: Annotated[int, typer.Option(min=4, help="Images that each worker reads before it is measured.")] = 400,
    folder: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where to write the files; by default a temporary folder.")
    ] = None,
    output: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the figures here too.")] = None,
) -> None:
    """Measure indexing, opening again, and the memory of loader workers; Linux only.

    COCO files are generated: one of 1,000 images, one of a tenth of --images and one of all. The first two are also
    read with pycocotools' COCO, held in each worker as most data sets do. `first` is the time to index a file (for
    pycocotools, to parse it) and read one image, `again` the same later; `peak` is the memory that the first took.
    `growth` is the private memory of a worker over that with 1,000 images.
    """
    import json
    import os
    import tempfile

    from rich.console import Console
    from rich.progress import track

    from vertebra.tools.annotation_speed import READERS, measure, records, tables, write_synthetic
    from vertebra.tools.engine.checkpoint import versions

    console = Console(highlight=False)
    costs = []
    with tempfile.TemporaryDirectory(dir=folder) as place:
        os.environ["XDG_CACHE_HOME"] = f"{place}/cache"  # of the measuring processes
        sizes = sorted({min(1000, images), -(-images // 10), images})
        for count in track(sizes, "measuring", console=console, transient=True, disable=not console.is_terminal):
            path = write_synthetic(Path(place) / str(count), count, objects)
            readers = READERS if count < images or images <= 1000 else ["vertebra"]
            costs += [measure(reader, path, count, objects, workers, samples) for reader in readers]
            path.unlink()
    costs.sort(key=lambda cost: (cost.reader != "vertebra", cost.images))
    for table in tables(costs):
        console.print(table)
    if output:
        output.write_text(json.dumps({"versions": versions(), "costs": records(costs)}, indent=2) + "\n")
