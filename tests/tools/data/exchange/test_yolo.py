"""YOLO's files: lines by hand, the layouts in which they come, and what is wrong with them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

import vertebra
from vertebra.tools.data.exchange.common import IMAGES, Collection, Notes, Object
from vertebra.tools.data.exchange.yolo_reader import read_yolo
from vertebra.tools.data.exchange.yolo_writer import box_line, outline_line, write_yolo

Draw = Callable[..., Path]


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def objects_of(collection: Collection) -> dict[str, tuple[Object, ...]]:
    return {picture.name: picture.objects for part in collection.parts for picture in part.pictures}


def names_of(collection: Collection) -> dict[str, tuple[str, ...]]:
    return {part.name: part.names for part in collection.parts}


@pytest.fixture
def folder(draw: Draw, tmp_path: Path) -> Path:
    """Three training images, one without labels and one with an empty file, and one for validation."""
    for name in ("train/a.jpg", "train/b.jpg", "train/deep/c.png", "val/a.jpg"):
        draw(f"set/images/{name}")
    # 0.5 * 200 - 0.25 * 200 / 2 = 75, 0.5 * 100 - 0.4 * 100 / 2 = 30; the polygon reaches from (20, 20) to (60, 60).
    write(tmp_path / "set/labels/train/a.txt", "1 0.5 0.5 0.25 0.4\n\n0 0.1 0.2 0.3 0.2 0.3 0.6\n")
    write(tmp_path / "set/labels/train/b.txt", "")
    write(tmp_path / "set/labels/val/a.txt", "0 0.5 0.5 1 1")
    write(tmp_path / "set/data.yaml", "train: images/train\nval: images/val\nnames: [cat, dog]\n")
    return tmp_path / "set"


def test_lines_by_hand(folder: Path) -> None:
    found = read_yolo(folder, Notes())
    assert (found.categories, names_of(found)) == (
        ("cat", "dog"),
        {"train": ("a.jpg", "b.jpg", "deep/c.png"), "val": ("a.jpg",)},
    )
    train, val = found.parts
    a, b, c = train.pictures
    assert (a.path, a.height, a.width) == (folder / "images/train/a.jpg", 100, 200)
    box, polygon = a.objects
    assert box == Object(1, (75, 30, 50, 40))
    assert (polygon.category, polygon.box) == (0, (20, 20, 40, 40))
    assert [part.tolist() for part in polygon.segmentation or ()] == [[20, 20, 60, 20, 60, 60]]
    assert b.objects == c.objects == ()
    assert [picture.objects for picture in val.pictures] == [(Object(0, (0, 0, 200, 100)),)]


@pytest.mark.parametrize(
    "sheet",
    [
        "path: .\ntrain: images/train\nvalidation: images/val\nnames: {0: cat, 1: dog}\n",
        "path: nowhere\ntrain: images/train\nval: images/val\nnames: [cat, dog]\n",
        "train: [images/train]\nval: [images/val]\nnames:\n  1: dog\n  0: cat\nnc: 2\n",
    ],
)
def test_forms_of_data_yaml(folder: Path, sheet: str) -> None:
    write(folder / "data.yaml", sheet)
    for source in (folder, folder / "data.yaml"):
        found = read_yolo(source, Notes())
        assert found.categories == ("cat", "dog")
        assert objects_of(found)["a.jpg"] == (Object(0, (0, 0, 200, 100)),)
        assert [part.name for part in found.parts] == ["train", "val"]


def test_roboflows_layout(draw: Draw, tmp_path: Path) -> None:
    """Its data.yaml is written for a folder deeper than it lies in."""
    draw("set/valid/images/x.jpg")
    draw("set/train/images/y.jpg")
    write(tmp_path / "set/train/labels/y.txt", "0 0.5 0.5 0.5 0.5")
    write(tmp_path / "set/data.yaml", "train: ../train/images\nval: ../valid/images\n\nnc: 1\nnames: ['cat']\n")
    found = read_yolo(tmp_path / "set", Notes())
    assert names_of(found) == {"train": ("y.jpg",), "val": ("x.jpg",)}
    assert objects_of(found) == {"y.jpg": (Object(0, (50, 25, 100, 50)),), "x.jpg": ()}


def test_lists_of_images(folder: Path) -> None:
    write(folder / "train.txt", "./images/train/a.jpg\nimages/val/a.jpg\n")
    write(folder / "data.yaml", "train: train.txt\nnames: [cat, dog]\n")
    found = read_yolo(folder, Notes())
    assert names_of(found) == {"train": ("train/a.jpg", "val/a.jpg")}
    assert [len(objects) for objects in objects_of(found).values()] == [2, 1]
    write(folder / "train.txt", "images/train/a.jpg\nimages/train/gone.jpg\n")
    with pytest.raises(vertebra.InputError, match=r"line 2 of .*train\.txt names .*gone\.jpg, which is not there"):
        read_yolo(folder, Notes())
    write(folder / "train.txt", "../set/images/train/a.jpg\n")
    with pytest.raises(vertebra.InputError, match=r"line 1 of .*train\.txt .* leads outwards"):
        read_yolo(folder, Notes())


def test_classes_txt_alone(draw: Draw, tmp_path: Path) -> None:
    """As Label Studio exports it; labelImg keeps its list among the labels."""
    draw("set/images/x.jpg")
    write(tmp_path / "set/labels/x.txt", "1 0.5 0.5 0.5 0.5")
    write(tmp_path / "set/labels/classes.txt", "cat\ndog\n")
    with pytest.raises(vertebra.InputError, match=r"no names of classes at .*set/classes\.txt"):
        read_yolo(tmp_path / "set", Notes())
    write(tmp_path / "set/classes.txt", "cat\ndog\n")
    found = read_yolo(tmp_path / "set", Notes())
    assert (found.categories, names_of(found)) == (("cat", "dog"), {"train": ("x.jpg",)})
    assert objects_of(found) == {"x.jpg": (Object(1, (50, 25, 100, 50)),)}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0 0.5 0.5 0.5", r"has 4 numbers; a box has 5 \(class cx cy w h\), a polygon 7, 9, …"),
        ("0 0.5 0.5 0.5 0.5 0.9", "has 6 numbers"),
        ("0 0.1 0.2 0.3 0.2 0.3 0.6 0.7", "has 8 numbers"),
        ("cat 0.5 0.5 0.5 0.5", "has 'cat 0.5 0.5 0.5 0.5'; only numbers are allowed"),
        ("2 0.5 0.5 0.5 0.5", "has class 2; there are 2, from 0 to 1"),
        ("-1 0.5 0.5 0.5 0.5", "has class -1"),
        ("0.5 0.5 0.5 0.5 0.5", "has class 0.5"),
        ("nan 0.5 0.5 0.5 0.5", "has class nan"),
        ("0 100 50 20 20", "has 100; all but the class are shares of the image's width and height, from 0 to 1"),
        ("0 0.5 0.5 0.5 nan", "has nan; all but the class are shares"),
        ("0 -0.2 0.5 0.5 0.5", "has -0.2; all but the class are shares"),
    ],
)
def test_lines_that_are_wrong(folder: Path, line: str, message: str) -> None:
    path = write(folder / "labels/train/a.txt", f"0 0.5 0.5 0.5 0.5\n\n{line}\n")
    with pytest.raises(vertebra.InputError, match=f"^line 3 of {path} {message}"):
        objects_of(read_yolo(folder, Notes()))


def test_labels_and_images_that_are_wrong(folder: Path, draw: Draw) -> None:
    path = write(folder / "labels/train/gone.txt", "0 0.5 0.5 0.5 0.5")
    with pytest.raises(vertebra.InputError, match=rf"^{path} has no image: .*images/train has no gone"):
        read_yolo(folder, Notes())
    path.unlink()
    (folder / "labels/train/a.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(vertebra.InputError, match=r"labels .*a\.txt cannot be read"):
        objects_of(read_yolo(folder, Notes()))
    write(folder / "labels/train/a.txt", "")
    write(folder / "images/train/b.jpg", "no image")
    with pytest.raises(vertebra.InputError, match=r"image .*b\.jpg cannot be read"):
        objects_of(read_yolo(folder, Notes()))
    draw("set/images/train/a.png")
    with pytest.raises(vertebra.InputError, match=r"images/train has a\.jpg and a\.png, which would share a\.txt"):
        read_yolo(folder, Notes())


@pytest.mark.parametrize(
    ("sheet", "message"),
    [
        ("names: [cat", r"data\.yaml cannot be read as YAML"),
        ("- cat\n", r"data\.yaml is not YOLO's data\.yaml"),
        ("train: images/train\n", r"has names: None; a list of the classes' names"),
        ("train: images/train\nnames: {1: cat, 2: dog}\n", r"has names: \{1: 'cat', 2: 'dog'\}"),
        ("names: [cat, dog]\n", r"names no images: it has none of the keys train, val, test"),
        ("train: images/gone\nnames: [cat, dog]\n", r"names images at .*images/gone, where nothing is"),
        ("train: labels/train\nnames: [cat, dog]\n", r"no images in .*labels/train"),
    ],
)
def test_sheets_that_are_wrong(folder: Path, sheet: str, message: str) -> None:
    write(folder / "data.yaml", sheet)
    with pytest.raises(vertebra.InputError, match=message):
        read_yolo(folder, Notes())


def test_boxes_as_they_are_written(collect: Callable[..., Collection], tmp_path: Path) -> None:
    given = collect(
        train={"deep/a.jpg": [Object(1, (75, 30, 50, 40)), Object(0, (0, 0, 1, 100))], "b.jpg": []},
        val={"a.jpg": [Object(0, (10, 10, 5, 5), [np.array([10, 10, 15, 10, 15, 15.0])])]},
    )
    notes = Notes()
    write_yolo(given, tmp_path / "out", notes, IMAGES["copy"], line=box_line)
    labels = tmp_path / "out" / "labels"
    assert (labels / "train/deep/a.txt").read_text().splitlines() == [
        "1 0.50000000 0.50000000 0.25000000 0.40000000",
        "0 0.00250000 0.50000000 0.00500000 1.00000000",
    ]
    assert (labels / "train/b.txt").read_text() == ""
    assert (labels / "val/a.txt").read_text() == "0 0.06250000 0.12500000 0.02500000 0.05000000\n"
    assert (tmp_path / "out/images/train/deep/a.jpg").is_file()
    assert yaml.safe_load((tmp_path / "out/data.yaml").read_text()) == {
        "train": "images/train",
        "val": "images/val",
        "names": {0: "cat", 1: "dog"},
    }
    assert notes.lines() == [
        "1 masks were left out: lines of boxes have none (--to yolo-seg writes polygons) (first: a.jpg)"
    ]


def test_polygons_as_they_are_written(collect: Callable[..., Collection], tmp_path: Path) -> None:
    triangle = Object(1, (20, 20, 40, 40), [np.array([20, 20, 60, 20, 60, 60.0])])
    given = collect(train={"a.jpg": [triangle, Object(0, (50, 25, 100, 50))]})
    notes = Notes()
    write_yolo(given, tmp_path / "out", notes, IMAGES["copy"], line=outline_line)
    assert (tmp_path / "out/labels/train/a.txt").read_text().splitlines() == [
        "1 0.10000000 0.20000000 0.30000000 0.20000000 0.30000000 0.60000000",
        "0 0.25000000 0.25000000 0.75000000 0.25000000 0.75000000 0.75000000 0.25000000 0.75000000",
    ]
    assert notes.lines() == [
        "1 objects without a mask have the corners of their box for a polygon (first: a.jpg)",
        "1 part that Ultralytics needs for training is not in the data set (first: val)",
    ]


def test_boxes_come_back_exactly(collect: Callable[..., Collection], tmp_path: Path) -> None:
    """Of up to four decimals, in an image 4,000 pixels wide."""
    rng = np.random.default_rng(0)
    corners = np.round(rng.uniform(0, (2000, 1500), (500, 2)), 4)
    sides = np.round(rng.uniform(0.01, (2000, 1500), (500, 2)), 4)
    boxes = [(*corner, *side) for corner, side in zip(corners.tolist(), sides.tolist(), strict=True)]
    given = collect((3000, 4000), train={"a.png": [Object(i % 2, box) for i, box in enumerate(boxes)]})
    write_yolo(given, tmp_path / "out", Notes(), IMAGES["link"], line=box_line)
    (found,) = objects_of(read_yolo(tmp_path / "out", Notes())).values()
    assert [(each.category, each.box) for each in found] == [(i % 2, box) for i, box in enumerate(boxes)]


def test_images_stored_on_their_side_are_noted(folder: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(folder / "images/train/a.jpg") as image:
        image.save(folder / "images/train/a.jpg", exif=exif)
    notes = Notes()
    objects_of(read_yolo(folder, notes))
    assert notes.lines() == [
        "1 images are stored turned (EXIF), and labels were taken to be of the stored pixels (first: a.jpg)"
    ]
