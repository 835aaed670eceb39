"""What annotations cost: time to index and to open again, and the memory of loader workers, beside pycocotools."""

from __future__ import annotations

import json
import multiprocessing
import random
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..backbones import InputError

CATEGORIES = 80
SIDE = (480, 640)

# Different annotations in a synthetic file; the rest repeat them with other ids.
KINDS = 1000


@dataclass(frozen=True)
class Cost:
    """What a set of annotations cost; times in seconds, memory in MB.

    `workers` has by the way that they were started the private memory (USS) and the share (PSS) of one on average.
    """

    reader: str
    images: int
    annotations: int
    file_mb: float
    first: float
    again: float
    peak: float
    workers: dict[str, tuple[float, float]]


def write_synthetic(folder: Path, images: int, objects: int, seed: int = 0) -> Path:
    """Write a COCO file of so many images with so many objects each, polygons of ten points; return its path.

    All records name one image file, which is written beside it.
    """
    import cv2

    rng = random.Random(seed)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 255, (SIDE[0] // 16, SIDE[1] // 16, 3), np.uint8)
    cv2.imwrite(str(folder / "images" / "0.jpg"), cv2.resize(noise, SIDE[::-1]))
    kinds = [_annotation(rng) for _ in range(KINDS)]
    path = folder / f"instances_{images}x{objects}.json"
    with path.open("w") as file:
        categories = [{"id": i, "name": f"kind {i}"} for i in range(1, CATEGORIES + 1)]
        file.write('{"categories": ' + json.dumps(categories) + ', "images": [')
        for start in range(0, images, 1000):
            of = range(start, min(start + 1000, images))
            size = f'"height": {SIDE[0]}, "width": {SIDE[1]}'
            file.write(", " * bool(start) + ", ".join(f'{{"id": {i}, "file_name": "0.jpg", {size}}}' for i in of))
        file.write('], "annotations": [')
        for start in range(0, images * objects, 1000):
            of = range(start, min(start + 1000, images * objects))
            file.write(", " * bool(start))
            file.write(", ".join(f'{{"id": {i + 1}, "image_id": {i // objects}, {kinds[i * 7 % KINDS]}}}' for i in of))
        file.write("]}")
    return path


def _annotation(rng: random.Random) -> str:
    width, height = rng.uniform(10, 300), rng.uniform(10, 200)
    x, y = rng.uniform(0, SIDE[1] - width), rng.uniform(0, SIDE[0] - height)
    polygon = [round(v, 2) for _ in range(10) for v in (x + rng.random() * width, y + rng.random() * height)]
    box = [round(v, 2) for v in (x, y, width, height)]
    record = {"category_id": rng.randrange(CATEGORIES) + 1, "bbox": box, "area": round(width * height / 2, 2)}
    return json.dumps({**record, "iscrowd": 0, "segmentation": [polygon]})[1:-1]


class Ours:
    """The images of our store."""

    name = "vertebra"

    def __init__(self, path: Path) -> None:
        from .data.coco import read_coco, require_masks

        self.images = require_masks(read_coco(path, path.parent / "images")).images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> int:
        image = self.images[index]
        image.read()
        return len(image.targets(("boxes", "labels", "masks"))["labels"])


class Pycocotools:
    """A data set as most write it: an index of pycocotools, asked for each image."""

    name = "pycocotools"

    def __init__(self, path: Path) -> None:
        import contextlib
        import io

        from pycocotools.coco import COCO

        with contextlib.redirect_stdout(io.StringIO()):
            self.coco = COCO(str(path))
        self.ids = sorted(self.coco.imgs)
        self.folder = path.parent / "images"

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> int:
        import cv2

        record = self.coco.loadImgs(self.ids[index])[0]
        cv2.imread(str(self.folder / record["file_name"]))
        annotations = self.coco.loadAnns(self.coco.getAnnIds(imgIds=self.ids[index]))
        return len([self.coco.annToMask(a) for a in annotations])


READERS: dict[str, Callable[[Path], Any]] = {reader.name: reader for reader in (Ours, Pycocotools)}


def measure(reader: str, path: Path, images: int, objects: int, workers: int, samples: int) -> Cost:
    """Return what the annotations of a file cost, each figure in a process of its own."""
    first, peak = apart(_open, reader, path)
    again, _ = apart(_open, reader, path)
    memory = {start: apart(_worker_memory, reader, path, start, workers, samples) for start in ("fork", "spawn")}
    return Cost(reader, images, images * objects, path.stat().st_size / 1e6, first, again, peak, memory)


def apart(function: Callable[..., Any], *arguments: Any) -> Any:
    """Return what the function returns in a new process."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_send, args=(theirs, function, arguments))
    process.start()
    theirs.close()
    try:
        return ours.recv()
    except EOFError as error:
        raise InputError(
            f"a measuring process ended early (exit status {process.exitcode}); was memory short?"
        ) from error
    finally:
        process.join()


def _send(pipe: Any, function: Callable[..., Any], arguments: Sequence[Any]) -> None:
    pipe.send(function(*arguments))


def _open(reader: str, path: Path) -> tuple[float, float]:
    """Return seconds to open and read the last image, and the process's peak of memory above its start, in MB."""
    import cv2  # noqa: F401  # no part of what is measured, as it is loaded by all
    from pycocotools import mask  # noqa: F401

    from .data import coco  # noqa: F401

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.perf_counter()
    found = READERS[reader](path)
    found[len(found) - 1]
    seconds = time.perf_counter() - began
    return seconds, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1e3


def _worker_memory(reader: str, path: Path, start: str, workers: int, samples: int) -> tuple[float, float]:
    """Return private memory and share of memory of a loader's worker in MB, after each has read `samples` images."""
    from torch.utils.data import DataLoader

    found = READERS[reader](path)
    order = np.random.default_rng(0).integers(0, len(found), samples * workers).tolist()
    loader: Any = DataLoader(
        found, batch_size=samples // 4, sampler=order, num_workers=workers, multiprocessing_context=start
    )
    batches = iter(loader)
    for _ in range(len(loader) - workers):  # the last are waited for by workers that are still there
        next(batches)
    figures = [_memory_of(worker.pid) for worker in batches._workers]
    return tuple(float(value) for value in np.mean(figures, axis=0))  # type: ignore[return-value]


def _memory_of(pid: int) -> tuple[float, float]:
    fields = dict(
        line.split(":", 1) for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines() if ":" in line[:20]
    )
    size = {name: int(fields[name].split()[0]) / 1e3 for name in ("Private_Clean", "Private_Dirty", "Pss")}
    return size["Private_Clean"] + size["Private_Dirty"], size["Pss"]


def tables(costs: Sequence[Cost]) -> list[Any]:
    """Return the costs as tables for the terminal: of a process, and of a worker by how it was started."""
    from rich.table import Table

    times = Table("reader", box=None)
    for name in ("images", "annotations", "file MB", "first s", "again s", "peak MB"):
        times.add_column(name, justify="right")
    memory = Table("worker of", box=None)
    for name in ("images", "started by", "private MB", "growth MB", "share MB"):
        memory.add_column(name, justify="right")
    smallest: dict[str, Cost] = {}
    for cost in costs:
        base = smallest.setdefault(cost.reader, cost)
        sizes = (f"{cost.images:,}", f"{cost.annotations:,}", f"{cost.file_mb:,.0f}")
        times.add_row(cost.reader, *sizes, f"{cost.first:.2f}", f"{cost.again:.2f}", f"{cost.peak:,.0f}")
        for start, (private, share) in cost.workers.items():
            grown = private - base.workers[start][0]
            memory.add_row(cost.reader, sizes[0], start, f"{private:,.0f}", f"{grown:+,.1f}", f"{share:,.0f}")
    return [times, memory]


def records(costs: Sequence[Cost]) -> list[dict[str, Any]]:
    """Return the costs as JSON has them."""
    return [asdict(cost) for cost in costs]
