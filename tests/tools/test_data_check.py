"""`vertebra data check`: real data sets, what it prints, and what it refuses."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

Command = Callable[..., Any]


def annotations(root: Path, split: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((root / "annotations" / f"{split}.json").read_text())["annotations"]
    return found


def test_bccd(real_data: Path, cli: Command, tmp_path: Path) -> None:
    """Its boxes without area, counted here from the raw JSON; the copy has no errors, the originals are as before."""
    root = real_data / "bccd"
    before = {split: (root / "annotations" / f"{split}.json").read_bytes() for split in ("train", "val")}
    flat = [
        (split, f"annotation {a['id']} of image {a['image_id']}")
        for split in before
        for a in annotations(root, split)
        if a["bbox"][2] <= 0 or a["bbox"][3] <= 0
    ]
    assert flat
    mended = tmp_path / "mended"
    done = cli("data", "check", "bccd", "--data-root", root, "--json", tmp_path / "bccd.json", "--fix", mended)
    assert (done.status, done.err) == (1, "")
    written = json.loads((tmp_path / "bccd.json").read_text())
    faults = {row["kind"]: [(place["split"], place["where"]) for place in row["places"]] for row in written["faults"]}
    assert faults["degenerate_box"] == flat
    assert [row["kind"] for row in written["faults"] if row["severity"] == "error"] == ["degenerate_box"]
    assert {split: (root / "annotations" / f"{split}.json").read_bytes() for split in before} == before
    for split in before:
        again = cli("data", "check", "--annotations", mended / f"{split}.json", "--images", root / split)
        assert (again.status, again.err) == (0, "")
        left = len(json.loads((mended / f"{split}.json").read_text())["annotations"])
        dropped = [c for c in written["changes"] if c["split"] == split and c["what"].startswith("dropped")]
        assert left == len(annotations(root, split)) - len(dropped)


@pytest.mark.parametrize(("name", "data", "extra"), [("coco_mini", "coco", []), ("nuclei", "nuclei", ["--no-images"])])
def test_sets_that_many_have_looked_at_have_no_errors(
    real_data: Path, cli: Command, name: str, data: str, extra: list[str]
) -> None:
    done = cli("data", "check", data, "--data-root", real_data / name, *extra)
    assert (done.status, done.err) == (0, ""), done.out
    assert "0 errors, 0 warnings" in done.out


def test_balance_and_sizes_of_coco(real_data: Path, cli: Command, tmp_path: Path) -> None:
    """Counted here by hand: crowds are no objects to learn, and COCO's own areas say what is small."""
    root = real_data / "coco_mini"
    cli("data", "check", "coco", "--data-root", root, "--no-images", "--json", tmp_path / "report.json")
    written = json.loads((tmp_path / "report.json").read_text())
    objects = [a for a in annotations(root, "instances_train2017") if not a["iscrowd"]]
    people = [a for a in objects if a["category_id"] == 1]
    row = next(row for row in written["classes"]["train"] if row["name"] == "person")
    assert row == {"id": 1, "name": "person", "objects": len(people), "images": len({a["image_id"] for a in people})}
    sizes = written["sizes"]["train"]
    assert sizes["small"] == sum(a["area"] < 1024 for a in objects)
    assert sizes["large"] == sum(a["area"] >= 9216 for a in objects)
    assert sum(sizes[name] for name in ("small", "medium", "large")) == len(objects)
    quantiles = sizes["quantiles of the square root of area"]
    assert quantiles["1.0"] == pytest.approx(math.sqrt(max(a["area"] for a in objects)))


def test_camvid(real_data: Path, cli: Command, tmp_path: Path) -> None:
    """Its pixels of each class in the validation images, counted here from the PNGs."""
    root = real_data / "camvid"
    settings = "data: {root: %s, val: {images: images/val, labels: labels/val}, labels: {names_file: classes.txt}}\n"
    (tmp_path / "camvid.yaml").write_text(settings % root)
    done = cli("data", "check", tmp_path / "camvid.yaml", "--json", tmp_path / "report.json")
    assert (done.status, done.err) == (0, "")
    values = [np.array(Image.open(path)) for path in (root / "labels" / "val").iterdir()]
    written = json.loads((tmp_path / "report.json").read_text())
    assert [(row["pixels"], row["images"]) for row in written["classes"]["val"]] == [
        (sum(int((value == i).sum()) for value in values), sum(bool((value == i).any()) for value in values))
        for i in range(11)
    ]


def test_the_page(coco_folder: Path, cli: Command) -> None:
    """What a person reads: how bad, how many, where, and what to do."""
    done = cli("data", "check", "--annotations", coco_folder / "instances.json", "--images", coco_folder / "images")
    assert (done.status, done.err) == (1, "")
    text = " ".join(done.out.split())
    assert "instances: 2 objects, 3 images" in text
    assert "error boxes without area in the image" in text
    assert "annotation 3 of image 3: bbox [5, 5, 0, 9] in 80x60" in text
    assert "takes the box of the mask, or drops the annotation" in text
    assert "1 error, 0 warnings, 2 notes" in text or "1 error, 0 warnings, 1 note" in text


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ([], "name either a data set, or --annotations FILE.json and --images DIR"),
        (["bccd", "--images", "images"], "name either a data set, or"),
        (["--annotations", "instances.json"], "name either a data set, or"),
        (["--annotations", "absent.json", "--images", "images"], "no annotations at absent.json"),
        (["--annotations", "instances.json", "--images", "absent"], "no folder of images at absent"),
        (["--annotations", "broken.json", "--images", "images"], "broken.json is not JSON"),
        (["--annotations", "deep.json", "--images", "images"], "deep.json is not JSON"),
        (["--annotations", "other.json", "--images", "images"], "it has no list 'images', 'annotations'"),
        (["--annotations", "instances.json", "--images", "images", "--fix", "instances.json"], "exists already"),
        (["bcdd"], "unknown data set 'bcdd'"),
    ],
)
def test_refused(
    coco_folder: Path, cli: Command, monkeypatch: pytest.MonkeyPatch, arguments: list[str], part: str
) -> None:
    monkeypatch.chdir(coco_folder)
    (coco_folder / "broken.json").write_text('{"images": [')
    (coco_folder / "deep.json").write_text("[" * 100_000)
    (coco_folder / "other.json").write_text('{"categories": [], "images": 3}')
    done = cli("data", "check", *arguments)
    assert done.status == 2
    assert len(done.err.strip().splitlines()) == 1
    assert part in done.err
