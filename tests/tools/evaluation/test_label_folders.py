"""Folders of label PNGs against each other."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vertebra.backbones import InputError
from vertebra.tools.data.labels import read_values
from vertebra.tools.evaluation.label_folders import evaluate_label_folders
from vertebra.tools.evaluation.semantic import SemanticEvaluator

TRUTH = np.array([[0, 0, 7], [7, 255, 7]], np.uint8)
FOUND = np.array([[0, 7, 7], [7, 9, 0]], np.uint8)


def write(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Predictions and labels: two images, one of them in a subfolder."""
    for name in ("a.png", "town/b.png"):
        write(tmp_path / "found" / name, FOUND)
        write(tmp_path / "truth" / name, TRUTH)
    return tmp_path / "found", tmp_path / "truth"


def test_values_by_number_and_by_name(folders: tuple[Path, Path]) -> None:
    metrics, _ = evaluate_label_folders(*folders)
    # Twice: value 0 is 1 of 2 + 2 - 1, value 7 is 2 of 3 + 3 - 2.
    assert metrics["IoU"] == {"0": pytest.approx(1 / 3), "7": pytest.approx(2 / 4)}
    named, text = evaluate_label_folders(*folders, {7: "seven", 0: "none", 3: "three"})
    assert named["semantic"] == metrics["semantic"]
    assert named["IoU"] == {"seven": metrics["IoU"]["7"], "none": metrics["IoU"]["0"]}
    assert "left out: three" in text
    assert evaluate_label_folders(*folders, list("abcdefgh"))[0]["IoU"] == {"a": 1 / 3, "h": 2 / 4}


def test_palettes_and_16_bit(tmp_path: Path) -> None:
    """The indices of a palette, whatever its colours; and classes above 255, where 255 is one if it is not ignored."""
    palette = Image.fromarray(TRUTH, "P")
    palette.putpalette([5, 6, 7] * 256)
    (tmp_path / "p").mkdir()
    palette.save(tmp_path / "p" / "a.png")
    assert np.array_equal(read_values(tmp_path / "p" / "a.png"), TRUTH)
    write(tmp_path / "t" / "a.png", np.array([[1000, 255, 65535]], np.uint16))
    write(tmp_path / "f" / "a.png", np.array([[1000, 1000, 3]], np.uint16))
    metrics, _ = evaluate_label_folders(tmp_path / "f", tmp_path / "t", ignore=65535)
    assert metrics["IoU"] == {"255": 0, "1000": 1 / 2}


def test_equals_the_evaluator_on_real_labels(real_data: Path, tmp_path: Path) -> None:
    """Labels of CamVid, scored against the labels of other frames."""
    names = (real_data / "camvid" / "classes.txt").read_text().split()
    paths = sorted((real_data / "camvid" / "labels" / "val").iterdir())[::20]
    evaluator = SemanticEvaluator(names)
    for path, other in zip(paths, [*paths[1:], paths[0]], strict=True):
        found = read_values(other)
        found[found == 255] = 3
        write(tmp_path / "t" / path.name, read_values(path))
        write(tmp_path / "f" / path.name, found)
        evaluator.update([read_values(path)], [found])
    assert evaluate_label_folders(tmp_path / "f", tmp_path / "t", names) == evaluator.compute()


def remove(found: Path, truth: Path) -> None:
    (found / "town" / "b.png").unlink()


def add(found: Path, truth: Path) -> None:
    write(found / "c.png", FOUND)


def turn(found: Path, truth: Path) -> None:
    write(found / "a.png", FOUND.T.copy())


def ignored(found: Path, truth: Path) -> None:
    write(found / "a.png", TRUTH)
    write(truth / "a.png", FOUND)


def colours(found: Path, truth: Path) -> None:
    write(truth / "a.png", np.zeros((2, 3, 3), np.uint8))


def cut(found: Path, truth: Path) -> None:
    (truth / "a.png").write_bytes((truth / "a.png").read_bytes()[:40])


def depths(found: Path, truth: Path) -> None:
    write(truth / "a.png", np.arange(1200, dtype=np.uint16).reshape(30, 40))
    write(found / "a.png", np.zeros((30, 40), np.uint8))


def empty(found: Path, truth: Path) -> None:
    for path in truth.rglob("*.png"):
        write(path, np.full((2, 3), 255, np.uint8))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (remove, r"found has no partner for 1 of the PNGs in .*truth: town/b\.png; the same names"),
        (add, r"truth has no partner for 1 of the PNGs in .*found: c\.png"),
        (turn, r"found/a\.png is 2x3 and .*truth/a\.png is 3x2"),
        (ignored, r"found/a\.png has the value 255 where there is a label"),
        (colours, r"truth/a\.png are RGB, with colours; give the data set.s palette, or index PNGs"),
        (cut, r"truth/a\.png cannot be read"),
        (depths, "more than 1000 different values"),
        (empty, "every label is 255"),
    ],
)
def test_wrong_folders(folders: tuple[Path, Path], spoil: Callable[[Path, Path], None], message: str) -> None:
    spoil(*folders)
    with pytest.raises(InputError, match=message):
        evaluate_label_folders(*folders)


def test_wrong_values_and_paths(folders: tuple[Path, Path], tmp_path: Path) -> None:
    found, truth = folders
    with pytest.raises(InputError, match=r"truth/a\.png has the value 7, which is no class; the classes are 0, 1, 2"):
        evaluate_label_folders(found, truth, ["a", "b", "c"])
    with pytest.raises(InputError, match=r"truth/a\.png has the value 255, which is no class"):
        evaluate_label_folders(truth, found, list("abcdefghij"))
    with pytest.raises(InputError, match="no folder at"):
        evaluate_label_folders(tmp_path / "nothing", truth)
    (tmp_path / "bare").mkdir()
    with pytest.raises(InputError, match=re.escape(f"no PNGs in {tmp_path / 'bare'}")):
        evaluate_label_folders(found, tmp_path / "bare")
