"""Data sets that are not in COCO's format: label PNGs, folders of classes, CIFAR."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

Command = Callable[..., Any]


def noise(seed: int, height: int = 20, width: int = 30) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


@pytest.fixture
def label_folders(tmp_path: Path) -> Path:
    """Three training images and two to validate on: half sky, a quarter road, the rest ignored; nothing is a car."""
    labels = np.full((20, 30), 255, np.uint8)
    labels[:10], labels[10:15] = 0, 1
    for split, count, seed in (("train", 3, 0), ("val", 2, 10)):
        for kind in ("images", "labels"):
            (tmp_path / kind / split).mkdir(parents=True)
        for i in range(count):
            noise(seed + i).save(tmp_path / "images" / split / f"{i}.jpg")
            Image.fromarray(labels).save(tmp_path / "labels" / split / f"{i}.png")
    splits = [f"  {name}: {{images: images/{name}, labels: labels/{name}}}" for name in ("train", "val")]
    lines = ["data:", "  root: .", *splits, "  labels: {names: [sky, road, car]}", ""]
    (tmp_path / "data.yaml").write_text("\n".join(lines))
    return tmp_path


def check(cli: Command, folder: Path) -> tuple[int, dict[str, Any]]:
    """Return the exit status and what was written; where it was, by kind of fault, is under `places`."""
    done = cli("data", "check", folder / "data.yaml", "--json", folder / "report.json")
    assert done.err == ""
    written = json.loads((folder / "report.json").read_text())
    written["places"] = {row["kind"]: [p["where"] for p in row["places"]] for row in written["faults"]}
    return done.status, written


def test_sound_label_folders(cli: Command, label_folders: Path) -> None:
    status, written = check(cli, label_folders)
    assert status == 0
    assert written["places"] == {"unused_category": ["category 2 (car)"] * 2}
    assert written["classes"]["train"] == [
        {"id": 0, "name": "sky", "pixels": 900, "images": 3},
        {"id": 1, "name": "road", "pixels": 450, "images": 3},
        {"id": 2, "name": "car", "pixels": 0, "images": 0},
    ]
    assert written["sizes"] == {}


def plant_cut_labels(folder: Path) -> None:
    path = folder / "labels" / "train" / "1.png"
    path.write_bytes(path.read_bytes()[:-40])


def plant_cut_image(folder: Path) -> None:
    path = folder / "images" / "train" / "1.jpg"
    path.write_bytes(path.read_bytes()[:-100])


def plant_size(folder: Path) -> None:
    Image.fromarray(np.zeros((21, 30), np.uint8)).save(folder / "labels" / "train" / "1.png")


def plant_value(folder: Path) -> None:
    Image.fromarray(np.full((20, 30), 9, np.uint8)).save(folder / "labels" / "train" / "1.png")


def plant_colours(folder: Path) -> None:
    noise(0).save(folder / "labels" / "train" / "1.png")


def plant_cmyk(folder: Path) -> None:
    noise(0).convert("CMYK").save(folder / "images" / "train" / "1.jpg")


def plant_shared(folder: Path) -> None:
    (folder / "images" / "val" / "1.jpg").write_bytes((folder / "images" / "train" / "2.jpg").read_bytes())


@pytest.mark.parametrize(
    ("plant", "kind", "status", "where"),
    [
        (plant_cut_labels, "unreadable_labels", 1, "images/train/1.jpg"),
        (plant_cut_image, "unreadable_image", 1, "images/train/1.jpg"),
        (plant_size, "wrong_label_size", 1, "images/train/1.jpg"),
        (plant_value, "unknown_label", 1, "images/train/1.jpg"),
        (plant_colours, "unknown_label", 1, "images/train/1.jpg"),
        (plant_cmyk, "cmyk_image", 0, "images/train/1.jpg"),
        (plant_shared, "shared_image", 0, "images/val/1.jpg"),
    ],
)
def test_planted_faults(
    cli: Command, label_folders: Path, plant: Callable[[Path], None], kind: str, status: int, where: str
) -> None:
    plant(label_folders)
    got, written = check(cli, label_folders)
    assert got == status
    assert written["places"] == {kind: [where], "unused_category": ["category 2 (car)"] * 2}


def test_label_folders_are_not_mended(cli: Command, label_folders: Path) -> None:
    done = cli("data", "check", label_folders / "data.yaml", "--fix", label_folders / "mended")
    assert done.status == 2
    assert "--fix mends annotations in COCO's format" in done.err


def test_class_folders(cli: Command, tmp_path: Path) -> None:
    for seed, name in enumerate(("train/cat/a", "train/cat/b", "train/dog/a", "val/cat/a", "val/dog/a")):
        path = tmp_path / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        noise(seed).save(path)
    (tmp_path / "val" / "dog" / "b.png").write_bytes((tmp_path / "train" / "dog" / "a.png").read_bytes())
    (tmp_path / "val" / "cat" / "b.png").write_bytes(b"")
    (tmp_path / "data.yaml").write_text("data: {root: ., train: {images: train}, val: {images: val}}\n")
    status, written = check(cli, tmp_path)
    assert status == 1
    assert written["places"] == {"unreadable_image": ["val/cat/b.png"], "shared_image": ["val/dog/b.png"]}
    assert [one["images"] for one in written["classes"]["train"]] == [2, 1]


def test_cifar(cli: Command, tmp_path: Path) -> None:
    """Five files of two records, of which the last three are held out: one with a class that is none, one twice."""
    records = np.random.default_rng(0).integers(0, 256, (12, 1 + 3 * 32 * 32), np.uint8)
    records[:, 0] = np.arange(12) % 10
    records[11] = records[0]
    records[3, 0] = 10
    for i, name in enumerate([*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]):
        (tmp_path / name).write_bytes(records[2 * i : 2 * i + 2].tobytes())
    (tmp_path / "batches.meta.txt").write_text("\n".join("abcdefghij"))
    (tmp_path / "data.yaml").write_text("data: {root: ., cifar: cifar10, held_out: 3}\n")
    status, written = check(cli, tmp_path)
    assert status == 1
    assert written["places"]["unknown_label"] == ["data_batch_2.bin record 1"]
    assert written["places"]["shared_image"] == ["test_batch.bin record 1"]
    assert [part["images"] for part in written["splits"]] == [7, 3, 2]
