"""What an evaluation with COCO's metrics costs, beside pycocotools: seconds and memory on a synthetic set."""

from __future__ import annotations

import contextlib
import io
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .annotation_speed import apart

Array = np.ndarray[Any, np.dtype[Any]]

SIDE = (480, 640)  # height, width

# Of the detections, this share lies near an object, most with its class; the rest is anywhere, of a class that is in
# the image as often as not.
NEAR, OWN_CLASS, CLASS_THERE = 0.4, 0.85, 0.5

# Points of the outline of a mask.
POINTS = 16


@dataclass(frozen=True)
class Size:
    """How large a synthetic set is; by default as COCO's val2017 with a hundred detections of each image."""

    images: int = 5000
    objects: int = 36_781
    detections: int = 500_000
    categories: int = 80


@dataclass(frozen=True)
class Cost:
    """What one evaluation cost: seconds to read the files and to evaluate, and the process's peak of memory in MB.

    `values` are COCO's numbers.
    """

    program: str
    kind: str
    load: float
    evaluate: float
    peak: float
    values: tuple[float, ...]


def write_synthetic(folder: Path, size: Size, kind: str, seed: int = 0) -> None:
    """Write `instances.json`, with crowds, and `results.json`, with masks where `kind` is not bbox."""
    rng = np.random.default_rng(seed)
    ids = rng.permutation(size.images * 3)[: size.images]
    image = np.sort(rng.integers(0, size.images, size.objects))
    category = 1 + (rng.pareto(1.0, size.objects) * size.categories / 20).astype(int) % size.categories
    boxes = _boxes(rng, size.objects)
    crowd = rng.random(size.objects) < 0.012

    of = np.sort(np.arange(size.detections) % size.images)
    starts, counts = np.searchsorted(image, of), np.bincount(image, minlength=size.images)[of]
    object = starts + (rng.random(size.detections) * counts).astype(int)
    object = np.where(counts > 0, object, 0)
    near = (rng.random(size.detections) < NEAR) & (counts > 0)
    jitter = rng.normal(0, 0.15, (size.detections, 4))
    sides = boxes[object, 2:] * np.exp(jitter[:, 2:])
    moved = np.concatenate([boxes[object, :2] + boxes[object, 2:] * jitter[:, :2], sides], axis=1)
    found = np.where(near[:, None], _inside(moved), _boxes(rng, size.detections))
    chance = rng.random(size.detections)
    there = (counts > 0) & (chance < np.where(near, OWN_CLASS, CLASS_THERE))
    found_category = np.where(there, category[object], rng.integers(1, size.categories + 1, size.detections))
    score = rng.random(size.detections) ** np.where(near, 1.5, 4)

    shapes = _masks if kind != "bbox" else _no_masks
    annotations = [
        {"id": i, "image_id": id, "category_id": c, "bbox": box, "area": box[2] * box[3], "iscrowd": int(flag), **shape}
        for i, (id, c, box, flag, shape) in enumerate(
            zip(ids[image].tolist(), category.tolist(), boxes.tolist(), crowd, shapes(rng, boxes), strict=True), start=1
        )
    ]
    # Without boxes where there are masks: of two shapes, pycocotools takes the box's area for the mask's.
    results = [
        {"image_id": id, "category_id": c, "score": s, **(shape or {"bbox": box})}
        for id, c, box, s, shape in zip(
            ids[of].tolist(), found_category.tolist(), found.tolist(), score.tolist(), shapes(rng, found), strict=True
        )
    ]
    images = [{"id": id, "file_name": f"{id}.jpg", "height": SIDE[0], "width": SIDE[1]} for id in ids.tolist()]
    categories = [{"id": i, "name": f"kind {i}"} for i in range(1, size.categories + 1)]
    document = {"images": images, "annotations": annotations, "categories": categories}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "instances.json").write_text(json.dumps(document))
    (folder / "results.json").write_text(json.dumps(results))


def _boxes(rng: np.random.Generator, count: int) -> Array:
    """Return boxes of all sizes, (count, 4), x, y, width, height, to a tenth of a pixel as many programs write them."""
    sides = np.exp(rng.normal(4, 1, (count, 1)) + rng.normal(0, 0.3, (count, 2)))
    corners = rng.random((count, 2)) * (np.array(SIDE[::-1]) - 8)
    return _inside(np.concatenate([corners, sides], axis=1))


def _inside(boxes: Array) -> Array:
    corners = np.clip(boxes[:, :2], 0, np.array(SIDE[::-1]) - 4)
    sides = np.clip(boxes[:, 2:], 4, np.array(SIDE[::-1]) - corners)
    return np.asarray(np.concatenate([corners, sides], axis=1).round(1))


def _no_masks(rng: np.random.Generator, boxes: Array) -> list[dict[str, Any]]:
    return [{}] * len(boxes)


def _masks(rng: np.random.Generator, boxes: Array) -> list[dict[str, Any]]:
    """Return a mask for each box, as RLE: an uneven ellipse."""
    from pycocotools import mask as coco_mask

    angle = np.linspace(0, 2 * np.pi, POINTS, endpoint=False)
    circle = np.stack([np.cos(angle), np.sin(angle)], axis=1)  # (POINTS, 2)
    points = boxes[:, None, :2] + boxes[:, None, 2:] * (
        0.5 + 0.5 * circle * rng.uniform(0.7, 1, (len(boxes), POINTS, 1))
    )
    found = []
    for polygon in points.reshape(len(boxes), -1).tolist():
        (rle,) = coco_mask.frPyObjects([polygon], *SIDE)
        found.append({"segmentation": {"size": list(SIDE), "counts": rle["counts"].decode()}})
    return found


def _with_pycocotools(folder: Path, kind: str) -> tuple[float, dict[str, float]]:
    """Evaluate as pycocotools' own example does; return when the files were read, and COCO's numbers."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    from .evaluation.coco import METRICS

    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(folder / "instances.json"))
        evaluation = COCOeval(truth, truth.loadRes(str(folder / "results.json")), kind)
        loaded = time.perf_counter()
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return loaded, dict(zip(METRICS, map(float, evaluation.stats), strict=True))


def _with_ours(folder: Path, kind: str) -> tuple[float, dict[str, float]]:
    from .evaluation.coco import CocoEvaluator
    from .evaluation.results import read_instances, read_results

    document, categories = read_instances(folder / "instances.json")
    evaluator = CocoEvaluator(document, categories)
    evaluator.add(read_results(folder / "results.json", document))
    loaded = time.perf_counter()
    return loaded, evaluator.scores(kind).totals


PROGRAMS: dict[str, Callable[[Path, str], tuple[float, dict[str, float]]]] = {
    "pycocotools": _with_pycocotools,
    "vertebra": _with_ours,
}


def measure(program: str, kind: str, folder: Path) -> Cost:
    """Return what the evaluation of a folder's files costs, in a process of its own."""
    cost: Cost = apart(_run, program, kind, folder)
    return cost


def _run(program: str, kind: str, folder: Path) -> Cost:
    # What both need, and what a training process has anyway, is no part of what is measured.
    import faster_coco_eval  # noqa: F401
    import pycocotools.cocoeval  # noqa: F401

    from .evaluation import coco, results  # noqa: F401

    began = time.perf_counter()
    loaded, values = PROGRAMS[program](folder, kind)
    ended = time.perf_counter()
    return Cost(program, kind, loaded - began, ended - loaded, _peak(), tuple(values.values()))


def _peak() -> float:
    """Return the most memory that this process has had, in MB; Linux only.

    Not getrusage's figure, which begins with that of the process that started this one.
    """
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) / 1e3


def table(costs: Sequence[Cost]) -> Any:
    """Return the costs as a table for the terminal; ratios are to the first row of each kind."""
    from rich.table import Table

    found = Table(box=None, padding=(0, 1))
    for name in ("of", "by"):
        found.add_column(name, no_wrap=True)
    for name in ("read s", "score s", "ratio", "all s", "ratio", "MB", "AP", "differ"):
        found.add_column(name, justify="right")
    for cost in costs:
        first = next(other for other in costs if other.kind == cost.kind)
        everything, theirs = cost.load + cost.evaluate, first.load + first.evaluate
        apart_by = max(abs(ours - other) for ours, other in zip(cost.values, first.values, strict=True))
        found.add_row(
            cost.kind,
            cost.program,
            f"{cost.load:.1f}",
            f"{cost.evaluate:.1f}",
            f"{first.evaluate / cost.evaluate:.1f}",
            f"{everything:.1f}",
            f"{theirs / everything:.1f}",
            f"{cost.peak:,.0f}",
            f"{cost.values[0]:.4f}",
            f"{apart_by:.0e}" if apart_by else "0",
        )
    return found
