"""The benchmark of evaluation: its set is what it says, both programs measure the same on it, and what is printed."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pycocotools import mask as coco_mask
from rich.console import Console

from vertebra.tools.evaluation.results import read_instances, read_results
from vertebra.tools.evaluation_speed import SIDE, Cost, Size, measure, table, write_synthetic

SMALL = Size(images=12, objects=70, detections=600, categories=5)


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_the_set(kind: str, tmp_path: Path) -> None:
    write_synthetic(tmp_path, SMALL, kind)
    document, categories = read_instances(tmp_path / "instances.json")
    results = read_results(tmp_path / "results.json", document)
    assert (len(document["images"]), len(document["annotations"]), len(results)) == (12, 70, 600)
    assert [category.id for category in categories] == [1, 2, 3, 4, 5]
    assert {a["category_id"] for a in document["annotations"]} <= {1, 2, 3, 4, 5}
    for record in (*document["annotations"], *results):
        x, y, w, h = record["bbox"]
        assert 0 <= x <= x + w <= SIDE[1] + 0.1
        assert 0 <= y <= y + h <= SIDE[0] + 0.1
        assert ("segmentation" in record) == (kind == "segm")
    if kind == "segm":
        # As much of its box as an ellipse, or somewhat less.
        shares = [coco_mask.area(a["segmentation"]) / (a["bbox"][2] * a["bbox"][3]) for a in document["annotations"]]
        assert 0.4 < sum(shares) / len(shares) < 0.75
    again = tmp_path / "again"
    write_synthetic(again, SMALL, kind)
    assert (again / "results.json").read_bytes() == (tmp_path / "results.json").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_both_measure_the_same(kind: str, tmp_path: Path) -> None:
    write_synthetic(tmp_path, SMALL, kind)
    theirs, ours = (measure(program, kind, tmp_path) for program in ("pycocotools", "vertebra"))
    assert ours.values == pytest.approx(theirs.values, rel=0, abs=1e-12)
    assert 0.01 < ours.values[0] < 0.9
    assert all(value > 0 for cost in (theirs, ours) for value in (cost.load, cost.evaluate, cost.peak))


def test_the_table() -> None:
    costs = [
        Cost("pycocotools", "bbox", 1.0, 9.0, 2000.0, (0.25, 0.5)),
        Cost("vertebra", "bbox", 2.0, 3.0, 1500.0, (0.25, 0.5)),
        Cost("pycocotools", "segm", 1.0, 8.0, 2000.0, (0.25, 0.5)),
        Cost("vertebra", "segm", 1.0, 2.0, 2000.0, (0.25, 0.51)),
    ]
    said = io.StringIO()
    Console(width=80, file=said).print(table(costs))
    rows = [line.split() for line in said.getvalue().splitlines()[1:]]
    assert rows[1] == ["bbox", "vertebra", "2.0", "3.0", "3.0", "5.0", "2.0", "1,500", "0.2500", "0"]
    assert rows[3] == ["segm", "vertebra", "1.0", "2.0", "4.0", "3.0", "3.0", "2,000", "0.2500", "1e-02"]


@pytest.mark.slow
def test_the_command(cli: Callable[..., Any], tmp_path: Path) -> None:
    sizes = ["--images", 10, "--objects", 30, "--detections", 100, "--categories", 3]
    done = cli("benchmark", "evaluation", *sizes, "--kinds", "bbox", "--json", tmp_path / "a.json")
    assert done.status == 0
    assert "10 images, 30 objects, 100 detections, 3 categories" in done.out
    assert [cost["program"] for cost in json.loads((tmp_path / "a.json").read_text())["costs"]] == [
        "pycocotools",
        "vertebra",
    ]
    wrong = cli("benchmark", "evaluation", "--kinds", "boxes")
    assert wrong.status != 0
    assert "--kinds boxes: bbox, segm, or both" in wrong.err
