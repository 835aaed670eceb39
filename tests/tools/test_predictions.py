"""What predict writes of maps and classes: PNGs with the data set's own ids, overlays, and tables."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vertebra.backbones import InputError
from vertebra.tools.data.images import read_image
from vertebra.tools.data.sets import Category
from vertebra.tools.draw import colour
from vertebra.tools.evaluation.label_folders import evaluate_label_folders
from vertebra.tools.predictions import (
    AREA_COLUMNS,
    CLASS_COLUMNS,
    top_classes,
    write_label_png,
    write_prediction,
    write_rows,
)

LABELS = torch.zeros(60, 80, dtype=torch.uint8)
LABELS[10:50, 20:40] = 2


@pytest.mark.parametrize(("ids", "mode"), [((0, 7, 255), "L"), ((3, 1, 300), "I;16")])
def test_a_prediction_on_disk(tmp_path: Path, ids: tuple[int, ...], mode: str) -> None:
    categories = [Category(id, name) for id, name in zip(ids, ("ground", "car", "tree, or bush"), strict=True)]
    image = torch.full((3, 60, 80), 100, dtype=torch.uint8)
    rows = write_prediction(tmp_path / "out", "a.b", image, LABELS, categories, "data/a.b.jpg")
    with Image.open(tmp_path / "out" / "a.b.png") as stored:
        assert stored.mode == mode
        values = np.array(stored)
    assert np.array_equal(values, np.where(LABELS == 2, ids[2], ids[0]))
    picture = read_image(tmp_path / "out" / "a.b.jpg")
    assert picture.shape[1] == 480  # enlarged, and the legend below
    assert picture.shape[0] > 360
    assert picture[150, 180].tolist() == pytest.approx([(100 + part) / 2 for part in colour(2)], abs=12)
    write_rows(tmp_path / "areas.csv", AREA_COLUMNS, rows)
    with (tmp_path / "areas.csv").open(newline="") as file:
        read = list(csv.DictReader(file))
    assert [(row["file_name"], row["class"], int(row["pixels"]), float(row["share"])) for row in read] == [
        ("data/a.b.jpg", "ground", 4000, pytest.approx(4000 / 4800)),
        ("data/a.b.jpg", "tree, or bush", 800, pytest.approx(800 / 4800)),
    ]


def test_predictions_can_be_evaluated(tmp_path: Path) -> None:
    """The PNGs among the pictures and tables of a folder of predictions, by the ids of their categories."""
    categories = [Category(11, "ground"), Category(5, "car"), Category(40, "tree")]
    image = torch.zeros(3, 60, 80, dtype=torch.uint8)
    rows = write_prediction(tmp_path / "found", "a", image, LABELS, categories, "a.jpg")
    write_rows(tmp_path / "found" / "areas.csv", AREA_COLUMNS, rows)
    (tmp_path / "truth").mkdir()
    write_label_png(tmp_path / "truth" / "a.png", LABELS, categories)
    names = {category.id: category.name for category in categories}
    metrics, _ = evaluate_label_folders(tmp_path / "found", tmp_path / "truth", names)
    assert metrics["IoU"] == {"ground": 1, "tree": 1}


def test_ids_that_no_png_holds(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"0\.\.65535"):
        write_label_png(tmp_path / "a.png", LABELS, [Category(1, "a"), Category(70000, "b"), Category(3, "c")])


def test_the_top_classes(tmp_path: Path) -> None:
    categories = [Category(i, f"name {i}") for i in range(4)]
    rows = top_classes("a.jpg", torch.tensor([0.1, 0.5, 0.0, 0.4]), categories, 2)
    assert rows == [
        {"file_name": "a.jpg", "rank": 1, "class": "name 1", "score": 0.5},
        {"file_name": "a.jpg", "rank": 2, "class": "name 3", "score": pytest.approx(0.4)},
    ]
    assert [row["class"] for row in top_classes("a.jpg", torch.full((4,), 0.25), categories)] == [
        f"name {i}" for i in range(4)
    ]
    write_rows(tmp_path / "classes.csv", CLASS_COLUMNS, rows)
    assert (tmp_path / "classes.csv").read_text().splitlines()[:2] == [
        "file_name,rank,class,score",
        "a.jpg,1,name 1,0.5",
    ]
