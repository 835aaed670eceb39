"""`vertebra data convert`: there and back, what it says, and what it refuses."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO
from torchvision.datasets import VOCDetection

from vertebra.tools.config import read_data
from vertebra.tools.conversion import convert
from vertebra.tools.sources import open_split

Command = Callable[..., Any]
Boxes = dict[str, list[tuple[str, tuple[float, ...]]]]  # by image, the class and the box of each object


def boxes_in(annotations: Path) -> Boxes:
    """Read a COCO file with nothing but json: objects that are no crowds and have area, boxes cut to their image."""
    document = json.loads(annotations.read_text())
    names = {category["id"]: category["name"] for category in document["categories"]}
    images = {image["id"]: image for image in document["images"]}
    found: Boxes = {image["file_name"]: [] for image in images.values()}
    for each in document["annotations"]:
        x, y, w, h = each["bbox"]
        if each["iscrowd"] or w <= 0 or h <= 0:
            continue
        image = images[each["image_id"]]
        left, top, right, bottom = max(0, x), max(0, y), min(image["width"], x + w), min(image["height"], y + h)
        found[image["file_name"]].append((names[each["category_id"]], (left, top, right, bottom)))
    return found


def check_equal(found: Boxes, expected: Boxes, tolerance: float, prefix: str = "") -> None:
    assert sorted(found) == sorted(prefix + name for name in expected)
    for name, objects in expected.items():
        ours = found[prefix + name]
        assert [kind for kind, _ in ours] == [kind for kind, _ in objects]
        if objects:
            theirs = np.array([box for _, box in objects])
            np.testing.assert_allclose(np.array([box for _, box in ours]), theirs, rtol=0, atol=tolerance)


# What of each set is which part, and how far boxes may move: by half a pixel in VOC.
REAL = {
    "coco_mini": ("instances_train2017.json", "instances_val2017.json"),
    "bccd": ("train.json", "val.json"),
}


@pytest.mark.parametrize("name", REAL)
@pytest.mark.parametrize(("form", "tolerance"), [("yolo", 1e-9), ("voc", 0.501)])
def test_real_data_there_and_back(real_data: Path, tmp_path: Path, name: str, form: str, tolerance: float) -> None:
    convert(str(real_data / name), tmp_path / "there", to=form)
    convert(str(tmp_path / "there"), tmp_path / "back", to="coco")
    for part, file in zip(("train", "val"), REAL[name], strict=True):
        given = real_data / name / "annotations" / file
        check_equal(boxes_in(tmp_path / "back" / "annotations" / f"{part}.json"), boxes_in(given), tolerance)
    back = tmp_path / "back" / "annotations" / "val.json"
    before, after = (json.loads(path.read_text())["categories"] for path in (given, back))
    expected = [category["name"] for category in sorted(before, key=lambda category: category["id"])]
    assert after == [{"id": id, "name": name} for id, name in enumerate(expected, start=1)]


@pytest.mark.parametrize("form", ["yolo", "yolo-seg", "voc"])
def test_shapes_there_and_back(shapes: Path, tmp_path: Path, form: str) -> None:
    """Boxes of generated objects are whole pixels, so that all formats have them exactly."""
    convert(str(shapes), tmp_path / "there", to=form)
    convert(str(tmp_path / "there"), tmp_path / "back", to="coco")
    for part in ("train", "val"):
        prefix = f"{part}/" if form == "voc" else ""
        found = boxes_in(tmp_path / "back" / "annotations" / f"{part}.json")
        check_equal(found, boxes_in(shapes / "annotations" / f"{part}.json"), 1e-9, prefix)


def test_masks_come_back_exactly_through_polygons(shapes: Path, tmp_path: Path) -> None:
    convert(str(shapes), tmp_path / "there", to="yolo-seg")
    convert(str(tmp_path / "there"), tmp_path / "back", to="coco")
    before, after = (COCO(folder / "annotations" / "train.json") for folder in (shapes, tmp_path / "back"))
    assert len(before.anns) == len(after.anns) > 8
    for one, other in zip(before.anns.values(), after.anns.values(), strict=True):
        np.testing.assert_array_equal(before.annToMask(one), after.annToMask(other))
        assert isinstance(other["segmentation"], list)


def data_sheet(folder: Path, root: Path, more: str = "") -> Path:
    """Write a data file for a set of the layout that we generate."""
    path = folder / "set.yaml"
    parts = [f"  {part}: {{images: {part}, annotations: annotations/{part}.json}}\n" for part in ("train", "val")]
    path.write_text("".join([f"data:\n  root: {root}\n", *parts, more]))
    return path


def test_label_pngs_are_what_segmenters_learn(shapes: Path, tmp_path: Path) -> None:
    """And come back as the regions of each class, pixel by pixel."""
    sheet = data_sheet(tmp_path, shapes)
    convert(str(sheet), tmp_path / "png", to="png")
    learnt = open_split(read_data(str(sheet)), "train", ("semantic",))
    written = open_split(read_data(str(tmp_path / "png" / "data.yaml")), "train", ("semantic",))
    assert [category.name for category in written.categories] == [category.name for category in learnt.categories]
    convert(str(tmp_path / "png"), tmp_path / "back", to="coco")
    back = open_split(read_data(str(tmp_path / "back" / "data.yaml")), "train", ("semantic",))
    for image, other, third in zip(learnt.images, written.images, back.images, strict=True):
        labels = image.targets(("semantic",))["semantic"]
        with Image.open(tmp_path / "png" / "labels" / "train" / f"{other.path.stem}.png") as png:
            np.testing.assert_array_equal(np.array(png), labels)
        np.testing.assert_array_equal(other.targets(("semantic",))["semantic"], labels)
        np.testing.assert_array_equal(third.targets(("semantic",))["semantic"], labels)


def test_real_label_pngs(real_data: Path, tmp_path: Path) -> None:
    """CamVid has no class for the background: what was class i is i + 1, and what was ignored is background."""
    sheet = tmp_path / "few.yaml"
    splits = "".join(f"  {part}: {{images: images/{part}, labels: labels/{part}}}\n" for part in ("train", "val"))
    root = real_data / "camvid"
    sheet.write_text(f"data:\n  root: {root}\n  limit: 2\n{splits}  labels: {{names_file: classes.txt}}\n")
    said = convert(str(sheet), tmp_path / "coco", to="coco")
    assert any("pixels to ignore" in line for line in said)
    given = open_split(read_data(str(sheet)), "val", ("semantic",))
    back = open_split(read_data(str(tmp_path / "coco" / "data.yaml")), "val", ("semantic",))
    for image, other in zip(given.images, back.images, strict=True):
        labels = image.targets(("semantic",))["semantic"]
        expected = np.where(labels == 255, 0, labels + 1)
        np.testing.assert_array_equal(other.targets(("semantic",))["semantic"], expected)


def test_what_the_command_says(cli: Command, coco_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    done = cli("data", "convert", coco_folder / "instances.json", coco_folder / "out", "--to", "yolo", "--data-root",
               coco_folder / "images")  # fmt: skip
    assert (done.status, done.out.splitlines()) == (
        0,
        [
            f"{coco_folder / 'instances.json'} is in the format coco",
            "train: 3 images, 3 objects",
            "2 classes: person, dog",
            "1 file has category ids other than 1, 2, 3, …, which are not kept "
            f"(first: {coco_folder / 'instances.json'})",
            "1 crowds were left out: the format has single objects only (first: 7.png)",
            "1 part that Ultralytics needs for training is not in the data set (first: val)",
            f"the data set is in {coco_folder / 'out'}",
        ],
    )
    assert "dropped 1 boxes without area (first: annotation id 3)" in caplog.text
    assert (coco_folder / "out/labels/train/7.txt").read_text() == "1 0.31250000 0.45833333 0.37500000 0.25000000\n"
    link = coco_folder / "out/images/train/7.png"
    assert link.is_symlink()
    assert link.resolve() == (coco_folder / "images/7.png").resolve()


def test_images_are_copied_or_left(cli: Command, coco_folder: Path) -> None:
    for how in ("copy", "none"):
        done = cli("data", "convert", coco_folder / "instances.json", coco_folder / how, "--to", "voc", "--data-root",
                   coco_folder / "images", "--images", how)  # fmt: skip
        assert done.status == 0, done.err
        assert (coco_folder / how / "Annotations/7.xml").is_file()
    assert not (coco_folder / "copy/JPEGImages/7.png").is_symlink()
    assert (coco_folder / "copy/JPEGImages/7.png").read_bytes() == (coco_folder / "images/7.png").read_bytes()
    assert not (coco_folder / "none/JPEGImages").exists()


def refused(done: Any, *parts: str) -> None:
    assert done.status == 2, (done.out, done.err)
    (line,) = [line for line in done.err.splitlines() if not line.startswith("warning: ")]
    assert line.startswith("error: ")
    for part in parts:
        assert part in line


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (["--to", "yollo"], ["unknown --to 'yollo'", "Did you mean 'yolo'?"]),
        (["--to", "yolo", "--from", "yolo-seg"], ["unknown --from 'yolo-seg'", "Known: coco, png, voc, yolo"]),
        (["--to", "yolo", "--images", "move"], ["unknown --images 'move'", "Known: copy, link, none"]),
        (["--to", "coco"], ["is in the format coco already", "--to"]),
        (["--to", "png"], ["has no masks to draw"]),
        (["--to", "voc", "--data-root", "nowhere"], ["no folder of images at"]),
    ],
)
def test_options_that_are_refused(cli: Command, coco_folder: Path, options: list[str], parts: list[str]) -> None:
    before = sorted(coco_folder.rglob("*"))
    if "--data-root" not in options:
        options = [*options, "--data-root", str(coco_folder / "images")]
    refused(cli("data", "convert", coco_folder / "instances.json", coco_folder / "out", *options), *parts)
    assert sorted(coco_folder.rglob("*")) == before


def test_sources_that_are_refused(cli: Command, shapes: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    refused(cli("data", "convert", "cocoo", out, "--to", "yolo"), "unknown data set 'cocoo'", "Did you mean 'coco'?")
    refused(cli("data", "convert", tmp_path, out, "--to", "yolo"), "in no format that is known: coco: annotations/*.j")
    refused(cli("data", "convert", tmp_path / "a.json", out, "--to", "yolo"), "no annotations at")
    refused(cli("data", "convert", shapes, shapes, "--to", "yolo"), "exists already; choose another folder")
    refused(cli("data", "convert", shapes, out, "--to", "yolo", "--data-root", "x"), "--data-root is for data sets by")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a.txt").touch()
    (tmp_path / "labels" / "a.png").touch()
    refused(cli("data", "convert", tmp_path, out, "--to", "coco"), "may be in the format yolo or png", "--from")
    assert not out.exists()


def test_nothing_half_written_and_the_source_untouched(cli: Command, shapes: Path, tmp_path: Path) -> None:
    assert cli("data", "convert", shapes, tmp_path / "yolo", "--to", "yolo", "--images", "copy").status == 0
    label = max((tmp_path / "yolo" / "labels" / "val").iterdir())
    label.write_text(label.read_text() + "0 0.5\n")
    before = {path: (path.stat().st_mtime_ns, path.is_file() and path.read_bytes()) for path in tmp_path.rglob("*")}
    refused(cli("data", "convert", tmp_path / "yolo", tmp_path / "back", "--to", "coco"), f"of {label} has 2 numbers")
    assert before == {
        path: (path.stat().st_mtime_ns, path.is_file() and path.read_bytes()) for path in tmp_path.rglob("*")
    }


@pytest.mark.parametrize(
    ("annotations", "images"),
    [
        ("annotations/instances_val2017.json", "val2017"),
        ("annotations/val.json", "images/val"),
        ("annotations/instances_default.json", "images"),
        ("valid/_annotations.coco.json", "valid"),
        ("result.json", "."),
    ],
)
def test_layouts_of_coco_files(coco_folder: Path, tmp_path: Path, annotations: str, images: str) -> None:
    """Of COCO, of CVAT before and after 2024, of Roboflow and Label Studio."""
    home = tmp_path / "layout"
    for path in (coco_folder / "images").iterdir():
        target = home / images / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    (home / annotations).parent.mkdir(parents=True, exist_ok=True)
    (home / annotations).write_bytes((coco_folder / "instances.json").read_bytes())
    part = "val" if "val" in annotations else "train"
    for number, source in enumerate((home, home / annotations)):
        said = convert(str(source), tmp_path / f"out{number}", to="voc")
        assert f"{part}: 3 images, 3 objects" in said


def test_two_files_of_one_part(coco_folder: Path) -> None:
    (coco_folder / "annotations").mkdir()
    for name in ("a.json", "b.json"):
        (coco_folder / "annotations" / name).write_bytes((coco_folder / "instances.json").read_bytes())
    with pytest.raises(ValueError, match=r"b\.json and .*a\.json are both for train; convert one file at a time"):
        convert(str(coco_folder), coco_folder / "out", to="yolo")


def test_a_set_divided_by_its_settings(shapes: Path, tmp_path: Path) -> None:
    """The parts are those that a run trains and evaluates on."""
    sheet = tmp_path / "one.yaml"
    train = "{images: train, annotations: annotations/train.json}"
    sheet.write_text(f"data:\n  root: {shapes}\n  train: {train}\n  split: {{val: 0.25, test: 0.0, seed: 0}}\n")
    said = convert(str(sheet), tmp_path / "out", to="yolo")
    assert [line.split(" images")[0] for line in said[1:3]] == ["train: 6", "val: 2"]
    val = open_split(read_data(str(sheet)), "val", ("boxes", "labels"))
    assert sorted(path.name for path in (tmp_path / "out/images/val").iterdir()) == sorted(
        image.path.name for image in val.images
    )


def test_torchvision_reads_real_data(real_data: Path, tmp_path: Path) -> None:
    """As many objects of each class, and boxes within half a pixel, by a reader that is not ours."""
    convert(str(real_data / "bccd"), tmp_path / "VOCdevkit" / "VOC2012", to="voc")
    found = VOCDetection(tmp_path, "2012", "val")
    expected = boxes_in(real_data / "bccd" / "annotations" / "val.json")
    assert len(found) == len(expected) == 87
    for (name, objects), (image, target) in zip(expected.items(), found, strict=True):
        annotation = target["annotation"]
        assert (annotation["filename"], image.size) == (name, (640, 480))
        assert [each["name"] for each in annotation["object"]] == [kind for kind, _ in objects]
        sides = ("xmin", "ymin", "xmax", "ymax")
        ours = [[float(each["bndbox"][side]) for side in sides] for each in annotation["object"]]
        np.testing.assert_allclose(np.array(ours) - (1, 1, 0, 0), [box for _, box in objects], rtol=0, atol=0.5)
