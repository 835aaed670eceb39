"""What there is of maps and classes: PNGs with the data set's own ids, overlays, and rows of tables."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vertebra.backbones import InputError
from vertebra.tools.data.sets import Category
from vertebra.tools.draw import colour
from vertebra.tools.evaluation.label_folders import evaluate_label_folders
from vertebra.tools.predictions import class_areas, overlay, top_classes, write_label_png

LABELS = torch.zeros(60, 80, dtype=torch.uint8)
LABELS[10:50, 20:40] = 2


@pytest.mark.parametrize(("ids", "mode"), [((0, 7, 255), "L"), ((3, 1, 300), "I;16")])
def test_a_map_on_disk(tmp_path: Path, ids: tuple[int, ...], mode: str) -> None:
    categories = [Category(id, name) for id, name in zip(ids, ("ground", "car", "tree, or bush"), strict=True)]
    write_label_png(tmp_path / "a.b.png", LABELS, categories)
    with Image.open(tmp_path / "a.b.png") as stored:
        assert stored.mode == mode
        values = np.array(stored)
    assert np.array_equal(values, np.where(LABELS == 2, ids[2], ids[0]))
    assert class_areas("data/a.b.jpg", LABELS, categories) == [
        {"file_name": "data/a.b.jpg", "class": "ground", "pixels": 4000, "share": pytest.approx(4000 / 4800)},
        {"file_name": "data/a.b.jpg", "class": "tree, or bush", "pixels": 800, "share": pytest.approx(800 / 4800)},
    ]


def test_an_overlay() -> None:
    categories = [Category(i, f"name {i}") for i in range(3)]
    picture = overlay(torch.full((3, 60, 80), 100, dtype=torch.uint8), LABELS, categories)
    assert picture.shape[2] == 480  # enlarged, and the legend below
    assert picture.shape[1] > 360
    assert picture[:, 150, 180].tolist() == pytest.approx([(100 + part) / 2 for part in colour(2)], abs=0.5)


def test_predictions_can_be_evaluated(tmp_path: Path) -> None:
    """The PNGs among the tables of a folder of predictions, by the ids of their categories."""
    categories = [Category(11, "ground"), Category(5, "car"), Category(40, "tree")]
    for folder in ("found", "truth"):
        (tmp_path / folder).mkdir()
        write_label_png(tmp_path / folder / "a.png", LABELS, categories)
    (tmp_path / "found" / "areas.csv").write_text("file_name,class,pixels,share\n")
    names = {category.id: category.name for category in categories}
    metrics, _ = evaluate_label_folders(tmp_path / "found", tmp_path / "truth", names)
    assert metrics["IoU"] == {"ground": 1, "tree": 1}


def test_ids_that_no_png_holds(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"0\.\.65535"):
        write_label_png(tmp_path / "a.png", LABELS, [Category(1, "a"), Category(70000, "b"), Category(3, "c")])


def test_the_top_classes() -> None:
    categories = [Category(i, f"name {i}") for i in range(4)]
    rows = top_classes("a.jpg", torch.tensor([0.1, 0.5, 0.0, 0.4]), categories, 2)
    assert rows == [
        {"file_name": "a.jpg", "rank": 1, "class": "name 1", "score": 0.5},
        {"file_name": "a.jpg", "rank": 2, "class": "name 3", "score": pytest.approx(0.4)},
    ]
    assert [row["class"] for row in top_classes("a.jpg", torch.full((4,), 0.25), categories)] == [
        f"name {i}" for i in range(4)
    ]
