"""A sound data set with one fault planted in it: that one is found and nothing else, and mending it makes it sound."""

import copy
import json
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from hashlib import sha256
from io import StringIO
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from vertebra.tools.data.checks.coco import check_sources, differing_categories
from vertebra.tools.data.checks.files import ImageFile, look_at, read_file
from vertebra.tools.data.checks.kinds import ERROR, KINDS
from vertebra.tools.data.checks.opening import open_sources
from vertebra.tools.data.checks.page import page
from vertebra.tools.data.checks.repair import repair
from vertebra.tools.data.checks.report import Report
from vertebra.tools.data.checks.source import Source
from vertebra.tools.data.coco import read_coco

HEIGHT, WIDTH = 36, 48
FIRST, SECOND = [4, 5, 10, 8], [20, 10, 12, 14]  # the boxes of each image


def rectangle(box: list[int]) -> list[list[int]]:
    x, y, w, h = box
    return [[x, y, x + w, y, x + w, y + h, x, y + h]]


def runs(box: list[int]) -> dict[str, Any]:
    """The uncompressed RLE of a rectangle, by hand: columns from top to bottom, from left to right."""
    x, y, w, h = box
    counts = [x * HEIGHT + y, h, *[HEIGHT - h, h] * (w - 1), (WIDTH - x - w) * HEIGHT + HEIGHT - y - h]
    return {"size": [HEIGHT, WIDTH], "counts": counts}


@dataclass
class Planted:
    """A data set of one file, with the image and the two annotations that a fault may be planted in."""

    folder: Path
    document: dict[str, Any]
    index: int

    @property
    def image(self) -> dict[str, Any]:
        found: dict[str, Any] = self.document["images"][self.index]
        return found

    @property
    def file(self) -> Path:
        return self.folder / self.image["file_name"]

    @property
    def first(self) -> dict[str, Any]:
        found: dict[str, Any] = self.document["annotations"][2 * self.index]
        return found

    @property
    def second(self) -> dict[str, Any]:
        found: dict[str, Any] = self.document["annotations"][2 * self.index + 1]
        return found

    def add(self, key: str, record: Any) -> None:
        self.document[key].append(record)


def noise(seed: int, height: int = HEIGHT, width: int = WIDTH) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


def sound_set(folder: Path, count: int, seed: int = 0) -> dict[str, Any]:
    """Write images, and return their annotations: with decimals, polygons, run-length codes, and without them."""
    folder.mkdir(parents=True)
    images, annotations = [], []
    for i in range(count):
        noise(seed + i).save(folder / f"{i}.png")
        images.append({"id": i + 1, "file_name": f"{i}.png", "height": HEIGHT, "width": WIDTH})
        common = {"image_id": i + 1, "iscrowd": 0}
        first = {"category_id": 1, "bbox": FIRST, "area": 80, "segmentation": rectangle(FIRST)}
        second = {"category_id": 3, "bbox": SECOND, "segmentation": runs(SECOND)}
        annotations += [{"id": 2 * i + 1, **common, **first}, {"id": 2 * i + 2, **common, **second}]
    categories = [{"id": 1, "name": "cell"}, {"id": 3, "name": "nucleus"}]
    return {"info": {"year": 2024}, "images": images, "annotations": annotations, "categories": categories}


# --- the faults, each planted in its own image ----------------------------------------------------------------------

Plant = Callable[[Planted], object]


def save_as_jpeg(planted: Planted, image: Image.Image, **options: Any) -> None:
    planted.image["file_name"] = f"{planted.index}.jpg"
    image.save(planted.file, quality=95, **options)


def save_turned(planted: Planted) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    save_as_jpeg(planted, noise(planted.index), exif=exif.tobytes())


def cut_jpeg(planted: Planted) -> None:
    save_as_jpeg(planted, noise(planted.index))
    planted.file.write_bytes(planted.file.read_bytes()[:-200])


def second_record(planted: Planted) -> None:
    planted.add("images", {**planted.image, "id": 5000, "file_name": f"./{planted.index}.png"})
    planted.second["image_id"] = 5000


def two_images_of_one_id(planted: Planted) -> None:
    noise(900).save(planted.folder / "another.png")
    planted.add("images", {**planted.image, "file_name": "another.png"})


def twin_name(planted: Planted) -> None:
    planted.add("categories", {"id": 77, "name": "cell"})
    planted.second["category_id"] = 77


def no_objects(planted: Planted) -> None:
    """The last image's annotations, so that those of the other plants stay where they are."""
    id = planted.image["id"]
    planted.document["annotations"] = [
        a for a in planted.document["annotations"] if not isinstance(a, dict) or a.get("image_id") != id
    ]


def copied(planted: Planted, **values: Any) -> None:
    planted.add("annotations", {**planted.first, "id": 7000 + planted.index, **values})


def box(*sides: Any) -> Plant:
    """Another box, of an object without a mask."""
    return lambda planted: (planted.first.update(bbox=[*sides]), planted.first.pop("segmentation"))


def masked_box(*sides: Any) -> Plant:
    return lambda planted: planted.first.update(bbox=[*sides])


def mask(value: Any) -> Plant:
    return lambda planted: planted.first.update(segmentation=value)


PLANTS: list[tuple[str, str, Plant]] = [
    ("malformed_image", "no height", lambda p: p.image.pop("height")),
    ("malformed_image", "text for a number", lambda p: p.image.update(width="48")),
    ("malformed_image", "a side that no file has", lambda p: p.image.update(width=2**40)),
    ("malformed_image", "no file name", lambda p: p.image.update(file_name=None)),
    ("malformed_image", "half a character", lambda p: p.image.update(file_name="\ud800.png")),
    ("malformed_image", "a zero byte", lambda p: p.image.update(file_name="a\0.png")),
    ("malformed_image", "no record", lambda p: p.add("images", [[1], "x"])),
    ("repeated_image_id", "same file", lambda p: p.add("images", dict(p.image))),
    ("repeated_image_id", "another file", two_images_of_one_id),
    ("repeated_file_name", "spelt otherwise", second_record),
    ("outside_folder", "one up", lambda p: p.image.update(file_name="../secret.png")),
    ("outside_folder", "absolute", lambda p: p.image.update(file_name="/etc/hostname")),
    ("outside_folder", "up and down", lambda p: p.image.update(file_name="a/../../b/0.png")),
    ("missing_image", "no file", lambda p: p.file.unlink()),
    ("missing_image", "too long a name", lambda p: p.image.update(file_name="x" * 5000)),
    ("unreadable_image", "cut PNG", lambda p: p.file.write_bytes(p.file.read_bytes()[:-60])),
    ("unreadable_image", "cut JPEG", cut_jpeg),
    ("unreadable_image", "empty", lambda p: p.file.write_bytes(b"")),
    ("unreadable_image", "text", lambda p: p.file.write_text("<html>404</html>")),
    ("unreadable_image", "a folder", lambda p: (p.file.unlink(), p.file.mkdir())),
    ("wrong_size", "exchanged", lambda p: p.image.update(height=WIDTH, width=HEIGHT)),
    ("wrong_size", "scaled", lambda p: p.image.update(height=2 * HEIGHT, width=2 * WIDTH)),
    ("cmyk_image", "JPEG", lambda p: save_as_jpeg(p, noise(p.index).convert("CMYK"))),
    ("rotated_image", "orientation 6", save_turned),
    ("repeated_image", "copied", lambda p: p.file.write_bytes((p.folder / "0.png").read_bytes())),
    ("malformed_category", "no id", lambda p: p.add("categories", {"name": "ghost"})),
    ("malformed_category", "null", lambda p: p.add("categories", None)),
    ("repeated_category_id", "other name", lambda p: p.add("categories", {"id": 3, "name": "ghost"})),
    ("repeated_category_name", "other id", twin_name),
    ("unused_category", "ghost", lambda p: p.add("categories", {"id": 88, "name": "phantom"})),
    ("malformed_annotation", "no id", lambda p: p.first.pop("id")),
    ("malformed_annotation", "text for a number", lambda p: p.first.update(image_id=str(p.image["id"]))),
    ("malformed_annotation", "True", lambda p: p.first.update(category_id=True)),
    ("malformed_annotation", "beyond 64 bits", lambda p: p.first.update(id=2**64)),
    ("malformed_annotation", "area", lambda p: p.first.update(area=float("inf"))),
    ("malformed_annotation", "lists", lambda p: copied(p, image_id=[1], category_id={})),
    ("malformed_annotation", "no record", lambda p: p.add("annotations", "annotation")),
    ("repeated_annotation_id", "of another image", lambda p: p.first.update(id=1)),
    ("unknown_image", "none such", lambda p: copied(p, image_id=99999)),
    ("unknown_category", "none such", lambda p: copied(p, category_id=404)),
    ("malformed_box", "three numbers", box(1, 2, 3)),
    ("malformed_box", "null", box(1, 2, None, 4)),
    ("malformed_box", "NaN", box(1, 2, float("nan"), 4)),
    ("malformed_box", "too large", box(1, 2, 10**400, 4)),
    ("malformed_box", "none", lambda p: (p.first.pop("bbox"), p.first.pop("segmentation"))),
    ("malformed_box", "text", box("4", "5", "10", "8.0")),
    ("malformed_box", "with a mask", masked_box([1], 2, 3, 4)),
    ("degenerate_box", "no width", box(5, 5, 0, 9)),
    ("degenerate_box", "negative", box(5, 5, 4, -9)),
    ("degenerate_box", "beside the image", box(WIDTH + 1, 5, 4, 9)),
    ("degenerate_box", "with a mask", masked_box(5, 5, 0, 0)),
    ("box_outside", "right", box(40, 5, 10, 9)),
    ("box_outside", "top", box(5, -2, 10, 9)),
    ("duplicate_box", "same mask", copied),
    ("malformed_mask", "text", mask("polygon")),
    ("malformed_mask", "flat list", mask([1, 2, 3, 4, 5, 6])),
    ("malformed_mask", "odd", mask([[4, 5, 14, 5, 14, 13, 4]])),
    ("malformed_mask", "points in lists", mask([[[4, 5], [14, 5], [14, 13]]])),
    ("malformed_mask", "infinite", mask([[4, 5, 14, 5, 14, float("inf")]])),
    ("malformed_mask", "far away", mask([[4, 5, 14, 5, 1e300, 13]])),
    ("malformed_mask", "other size", mask({**runs(FIRST), "size": [WIDTH, HEIGHT]})),
    ("malformed_mask", "too few runs", mask({"size": [HEIGHT, WIDTH], "counts": [10, 20]})),
    ("malformed_mask", "no runs", mask({"size": [HEIGHT, WIDTH], "counts": None})),
    ("malformed_mask", "no pixels", mask({"size": [HEIGHT, WIDTH], "counts": [HEIGHT * WIDTH]})),
    ("malformed_mask", "bad characters", mask({"size": [HEIGHT, WIDTH], "counts": "\u20ac!"})),
    ("malformed_mask", "no size", mask({"counts": "abc"})),
    ("short_polygon", "two points", mask([*rectangle(FIRST), [1, 1, 9, 9]])),
    ("short_polygon", "one and no other", mask([[1, 1, 9, 9]])),
    ("box_off_mask", "shifted", masked_box(10, 5, 10, 8)),
    ("empty_image", "nothing", no_objects),
]  # fmt: skip

# What a detector can live with, so that it is said and left as it is.
STAYS = {"cmyk_image", "rotated_image", "repeated_image", "repeated_category_name", "unused_category", "empty_image"}


def digest(path: Path) -> str:
    return sha256(path.read_bytes()).hexdigest()


def opened(document: dict[str, Any], folder: Path, read: Any = read_file) -> Source:
    path = folder.parent / f"{folder.name}.json"
    path.write_text(json.dumps(document))
    (source,) = open_sources([(folder.name, path, folder)], read, 2, Console())
    return source


def found(*sources: Source) -> Counter[str]:
    return Counter(finding.kind for finding in check_sources(sources, Console()).findings)


def check_mended(folder: Path, document: dict[str, Any]) -> Counter[str]:
    """Check that a mended set has no errors, needs no more mending and can be read whole; return what is left."""
    mended = opened(document, folder)
    left = found(mended)
    assert not [kind for kind in left if KINDS[kind].severity == ERROR]
    assert repair(mended)[1] == []
    data = read_coco(mended.annotations, folder)
    for image in data.images:
        image.read()
    return left


def test_a_sound_set_has_no_faults(tmp_path: Path) -> None:
    assert found(opened(sound_set(tmp_path / "train", 3), tmp_path / "train")) == {}


@pytest.mark.parametrize(("kind", "plant"), [(k, p) for k, _, p in PLANTS], ids=[f"{k}: {how}" for k, how, _ in PLANTS])
def test_a_planted_fault_is_found_and_mended(tmp_path: Path, kind: str, plant: Plant) -> None:
    folder = tmp_path / "train"
    planted = Planted(folder, sound_set(folder, 2), 1)
    untouched = copy.deepcopy([planted.document["images"][0], planted.document["annotations"][1]])
    plant(planted)
    source = opened(planted.document, folder)
    before = repr(source.document)
    assert found(source) == {kind: 1}
    document, changes = repair(source)
    assert repr(source.document) == before
    assert {change.kind for change in changes} == (set() if kind in STAYS else {kind})
    assert check_mended(folder, document) == ({kind: 1} if kind in STAYS else {})
    assert [document["images"][0], document["annotations"][1]] == untouched
    assert document["info"] == {"year": 2024}


def test_every_kind_of_annotation_files_is_planted() -> None:
    of_splits = {"shared_image", "other_categories"}
    of_labels = {"unreadable_labels", "wrong_label_size", "unknown_label"}
    assert {kind for kind, _, _ in PLANTS} == KINDS.keys() - of_splits - of_labels


def test_all_faults_in_one_set(tmp_path: Path, cli: Callable[..., Any]) -> None:
    """By the command: each is found as often as it was planted; the original stays; the copy is without errors."""
    folder = tmp_path / "train"
    document = sound_set(folder, len(PLANTS) + 1)
    for index, (_, _, plant) in enumerate(PLANTS, start=1):
        plant(Planted(folder, document, index))
    path, report, copied = tmp_path / "original.json", tmp_path / "report.json", tmp_path / "mended" / "copy.json"
    path.write_text(json.dumps(document))
    before = digest(path)
    arguments = ["data", "check", "--annotations", path, "--images", folder, "--json"]
    done = cli(*arguments, report, "--fix", copied)
    assert (done.status, done.err) == (1, ""), done
    written = json.loads(report.read_text())
    planted = Counter(kind for kind, _, _ in PLANTS)
    assert {row["kind"]: row["count"] for row in written["faults"]} == planted
    assert all(len(row["places"]) == row["count"] and row["advice"] for row in written["faults"])
    assert digest(path) == before
    changes = json.loads(copied.with_suffix(".changes.json").read_text())
    assert changes == written["changes"]
    assert {change["kind"] for change in changes} == planted.keys() - STAYS
    assert check_mended(folder, json.loads(copied.read_text())).keys() == STAYS
    again = cli("data", "check", "--annotations", copied, "--images", folder)
    assert (again.status, again.err) == (0, "")
    assert "0 errors" in again.out
    refused = cli(*arguments, report, "--fix", copied)
    assert refused.status == 2
    assert "copy.json exists already" in refused.err
    for place in (path, tmp_path / "new.json"):
        refused = cli(*arguments, place, "--fix", tmp_path / "new.json")
        assert refused.status == 2
        assert "is a file of annotations; name another for the report" in refused.err
    assert digest(path) == before


# --- how it is mended, by hand --------------------------------------------------------------------------------------


def mended(tmp_path: Path, *plants: Plant, read: Any = read_file) -> dict[str, Any]:
    """Return a set of two images, of which the second had these faults, after it was mended."""
    folder = tmp_path / "train"
    planted = Planted(folder, sound_set(folder, 2), 1)
    for plant in plants:
        plant(planted)
    document, _ = repair(opened(planted.document, folder, read))
    return document


def image_ids(document: dict[str, Any]) -> list[int]:
    return [image["id"] for image in document["images"]]


@pytest.mark.parametrize(
    ("plants", "expected", "area"),
    [
        ([box("4", "5", "10", "8.0")], [4, 5, 10, 8], 80),
        ([masked_box(5, 5, 0, 0)], FIRST, 80),
        ([masked_box(10, 5, 10, 8)], FIRST, 80),
        ([box(40, 5, 10, 9)], [40, 5, 8, 9], 72),
        ([box(5, -2, 10, 9)], [5, 0, 10, 7], 70),
        ([box(0.5, 0.5, 4, 4), lambda p: p.first.update(area="x")], [0.5, 0.5, 4, 4], 16),
    ],
)
def test_mended_boxes(tmp_path: Path, plants: list[Plant], expected: list[float], area: float) -> None:
    annotation = mended(tmp_path, *plants)["annotations"][2]
    assert annotation["bbox"] == expected
    assert annotation["area"] == area


@pytest.mark.parametrize("plant", [box(5, 5, 0, 9), box(1, 2, None, 4), box(WIDTH + 1, 5, 4, 9)])
def test_boxes_that_cannot_be_mended_go(tmp_path: Path, plant: Plant) -> None:
    assert [a["id"] for a in mended(tmp_path, plant)["annotations"]] == [1, 2, 4]


@pytest.mark.parametrize(
    ("given", "left"),
    [([*rectangle(FIRST), [1, 1, 9, 9]], rectangle(FIRST)), ([[1, 1, 9, 9]], []), ("polygon", []), ([[1] * 7], [])],
)
def test_mended_masks(tmp_path: Path, given: object, left: object) -> None:
    annotation = mended(tmp_path, mask(given))["annotations"][2]
    assert (annotation["segmentation"], annotation["bbox"], annotation["area"]) == (left, FIRST, 80)


def test_ids_that_are_repeated(tmp_path: Path) -> None:
    document = mended(tmp_path, lambda p: p.first.update(id=1), lambda p: p.second.pop("id"))
    assert [a["id"] for a in document["annotations"]] == [1, 2, 3, 4]


def test_an_image_with_two_records(tmp_path: Path) -> None:
    document = mended(tmp_path, second_record)
    assert image_ids(document) == [1, 2]
    assert [a["image_id"] for a in document["annotations"]] == [1, 1, 2, 2]


def test_two_images_with_one_id_go_with_their_annotations(tmp_path: Path) -> None:
    document = mended(tmp_path, two_images_of_one_id)
    assert image_ids(document) == [1]
    assert [a["image_id"] for a in document["annotations"]] == [1, 1]


@pytest.mark.parametrize(
    ("file", "said", "expected"),
    [
        ((36, 48), (48, 36), (36, 48)),  # exchanged in the JSON, and the boxes fit the file
        ((36, 48), (72, 96), None),  # scaled after it was labelled
        ((36, 48), (37, 48), (36, 48)),  # rounded
        ((36, 40), (36, 48), (36, 40)),  # cropped beside the boxes
        ((36, 30), (36, 48), None),  # cropped through a box
    ],
)
def test_sizes(tmp_path: Path, file: tuple[int, int], said: tuple[int, int], expected: tuple[int, int] | None) -> None:
    def other_size(planted: Planted) -> None:
        noise(1, *file).save(planted.file)
        planted.image.update(height=said[0], width=said[1])
        planted.second.update(segmentation=rectangle(SECOND))

    document = mended(tmp_path, other_size)
    sizes = {image["id"]: (image["height"], image["width"]) for image in document["images"]}
    assert sizes.get(2) == expected
    assert len(document["annotations"]) == (2 if expected is None else 4)


def test_a_size_that_is_that_of_the_image_as_it_is_shown(tmp_path: Path) -> None:
    """The boxes are then those of the turned image, and fit the file by accident only."""
    document = mended(tmp_path, save_turned, lambda p: p.image.update(height=WIDTH, width=HEIGHT))
    assert image_ids(document) == [1]


def test_images_that_are_not_read(tmp_path: Path) -> None:
    folder = tmp_path / "train"
    planted = Planted(folder, sound_set(folder, 3), 1)
    planted.file.write_bytes(b"")
    planted.image.update(height=10, width=10)
    (folder / "2.png").unlink()
    assert found(opened(planted.document, folder, look_at)) == {"missing_image": 1, "degenerate_box": 1, **OUT_OF_TEN}


OUT_OF_TEN = {
    "box_outside": 1,
    "malformed_mask": 1,
}  # of an image that is said to be 10x10: FIRST, and the mask of SECOND


HOSTILE: list[Any] = [
    *(None, True, -1, 0, 1.5, 2.0, 2**31, 2**63, 10**400, 1e308, float("nan"), float("-inf")),
    *("", "x", "7", "nan", "1e999", "\ud800", "\0", "..", ".", "../0.png", "[bold]", "x" * 300),
    *([], [[]], [1, 2, 3, 4], [[1] * 6], ["1", "2", "3", "4"], [[1, 2, 3, 4, 5, 1e300]], [None]),
    *({}, {"size": 5, "counts": 5}, {"size": [HEIGHT, WIDTH], "counts": {}}, {"size": [HEIGHT, WIDTH], "counts": "0"}),
    {"size": [HEIGHT, WIDTH], "counts": [[864, 864], [0, 0]]},
]


def test_any_value_anywhere(tmp_path: Path) -> None:
    """Whatever a record holds, it is told and mended, and the mended copy has no errors."""
    source = opened(sound_set(tmp_path / "train", 2), tmp_path / "train")
    files = defaultdict(ImageFile, source.files)
    keys = {
        "images": ("id", "file_name", "height", "width"),
        "categories": ("id", "name"),
        "annotations": ("id", "image_id", "category_id", "bbox", "area", "iscrowd", "segmentation"),
    }
    parts, findings, tried = [], [], 0
    for key, fields in keys.items():
        for field, value in product((*fields, None), HOSTILE):
            document = copy.deepcopy(dict(source.document))
            document[key][1] = value if field is None else {**document[key][1], field: value}
            planted = replace(source, document=document, files=files)
            report = check_sources([planted], Console())
            findings += report.findings
            if key == "categories":
                parts += report.parts
            left = check_sources([replace(planted, document=repair(planted)[0])], Console()).findings
            assert not [one for one in left if KINDS[one.kind].severity == ERROR], (key, field, value)
            tried += 1
    assert tried == len(HOSTILE) * 16
    report = Report(parts, findings)
    for line in page(report):
        Console(file=StringIO()).print(line)
    json.dumps(report.to_json())


# --- faults between splits ------------------------------------------------------------------------------------------


def test_splits(tmp_path: Path, cli: Callable[..., Any]) -> None:
    documents = {"train": sound_set(tmp_path / "train", 3), "val": sound_set(tmp_path / "val", 2, seed=50)}
    (tmp_path / "val" / "1.png").write_bytes((tmp_path / "train" / "2.png").read_bytes())
    documents["val"]["categories"][1]["name"] = "core"
    sources = [opened(document, tmp_path / name) for name, document in documents.items()]
    assert found(*sources) == {"shared_image": 1}
    assert [(f.split, f.where, f.detail) for f in differing_categories(sources)] == [
        ("val", "category 3 (nucleus)", "is in train"),
        ("train", "category 3 (core)", "is in val"),
    ]
    lines = [f"  {name}: {{images: {name}, annotations: {name}.json}}" for name in documents]
    (tmp_path / "data.yaml").write_text("\n".join(["data:", "  root: .", *lines, ""]))
    done = cli("data", "check", tmp_path / "data.yaml", "--json", tmp_path / "report.json")
    assert (done.status, done.err) == (1, "")
    faults = {row["kind"]: row["places"] for row in json.loads((tmp_path / "report.json").read_text())["faults"]}
    assert faults.keys() == {"shared_image", "other_categories"}
    assert faults["shared_image"] == [{"split": "val", "where": "1.png", "detail": "equals 2.png of train"}]
    done = cli("data", "check", tmp_path / "data.yaml", "--fix", tmp_path / "fixed")
    assert sorted(path.name for path in (tmp_path / "fixed").iterdir()) == ["changes.json", "train.json", "val.json"]
    assert "with 2 errors" in " ".join(done.out.split())  # which of the lists is right, nobody else can say


def test_a_file_that_several_splits_share(tmp_path: Path, cli: Callable[..., Any]) -> None:
    (tmp_path / "train.json").write_text(json.dumps(sound_set(tmp_path / "train", 2)))
    lines = [f"  {name}: {{images: train, annotations: train.json}}" for name in ("train", "val")]
    (tmp_path / "data.yaml").write_text("\n".join(["data:", "  root: .", *lines, ""]))
    done = cli("data", "check", tmp_path / "data.yaml")
    assert (done.status, done.err) == (0, "")
    assert "train+val: 4 objects, 2 images" in done.out


def test_joined_files_are_one_split(tmp_path: Path, cli: Callable[..., Any]) -> None:
    """What they share is no leak; categories of one name are one, whatever their ids."""
    first, second = sound_set(tmp_path / "train", 2), sound_set(tmp_path / "more", 2, seed=50)
    (tmp_path / "more" / "0.png").write_bytes((tmp_path / "train" / "1.png").read_bytes())
    second["categories"] = [{"id": 1, "name": "nucleus"}, {"id": 3, "name": "cell"}]
    for name, document in (("train", first), ("more", second), ("val", sound_set(tmp_path / "val", 1, seed=90))):
        (tmp_path / f"{name}.json").write_text(json.dumps(document))
    (tmp_path / "data.yaml").write_text(
        "data:\n  root: .\n  val: {images: val, annotations: val.json}\n"
        "  train: {images: train, annotations: train.json, joined: [{images: more, annotations: more.json}]}\n"
    )
    done = cli("data", "check", tmp_path / "data.yaml", "--json", tmp_path / "report.json")
    assert (done.status, done.err) == (0, "")
    written = json.loads((tmp_path / "report.json").read_text())
    assert [part["split"] for part in written["splits"]] == ["train (train.json)", "train (more.json)", "val"]
    assert [row["kind"] for row in written["faults"]] == ["repeated_image"]
