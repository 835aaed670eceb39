"""The annotation store: what comes out is what the file says, however the cache fares."""

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vertebra
from vertebra.tools.data.coco import read_coco, require_masks
from vertebra.tools.data.document import records
from vertebra.tools.data.indexing import open_annotations
from vertebra.tools.data.masks import decode
from vertebra.tools.data.store import Stored

SQUARE = [[10.25, 20.5, 40.01, 20.5, 40, 35, 10, 35]]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and how many times a file is read from its beginning."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "vertebra" / "annotations"


@pytest.fixture
def readings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The lists of records that are read, as they are."""
    from vertebra.tools.data import indexing

    said: list[str] = []

    def counted(path: Path, names: Any, *rest: Any) -> Any:
        said.extend(names)
        return records(path, names, *rest)

    monkeypatch.setattr(indexing, "records", counted)
    return said


@pytest.mark.parametrize("split", ["train2017", "val2017"])
def test_every_mask_and_box_of_real_coco(real_data: Path, cache: Path, split: str) -> None:
    """Polygons, and compressed and uncompressed RLE of crowds, against pycocotools' `annToMask`; boxes to the bit."""
    from pycocotools.coco import COCO

    path = real_data / "coco_mini" / "annotations" / f"instances_{split}.json"
    theirs = COCO(str(path))
    store = open_annotations(path)
    count = 0
    for row in range(len(store)):
        stored = store.image(row)
        annotations = [theirs.anns[int(id)] for id in stored.annotations["id"]]
        assert [a["image_id"] for a in annotations] == [stored.id] * len(annotations)
        assert stored.name == theirs.imgs[stored.id]["file_name"]
        for place, annotation in enumerate(annotations):
            found = stored.annotations[place]
            assert found["bbox"].tolist() == annotation["bbox"]
            assert (found["area"], found["crowd"]) == (annotation["area"], annotation["iscrowd"])
            assert store.categories[found["category"]].id == annotation["category_id"]
            mask = decode([stored.segmentation(place)], stored.height, stored.width)[0]
            assert np.array_equal(mask, theirs.annToMask(annotation))
            count += 1
    assert count == len(theirs.anns)


def test_the_document_is_the_file(real_data: Path, cache: Path) -> None:
    """But for keys that evaluation does not use; counts of crowds become compressed, of which masks are held above."""
    path = real_data / "coco_mini" / "annotations" / "instances_val2017.json"
    given = json.loads(path.read_text())
    found = read_coco(path, real_data / "coco_mini" / "val2017").document
    for key, names in (("images", ("id", "file_name", "height", "width")), ("categories", ("id", "name"))):
        assert found[key] == [{name: record[name] for name in names} for record in given[key]]
    by_id = {a["id"]: a for a in found["annotations"]}
    assert len(by_id) == len(given["annotations"])
    for annotation in given["annotations"]:
        names = ["image_id", "category_id", "bbox", "area", "iscrowd"] + ["segmentation"] * (not annotation["iscrowd"])
        assert {name: by_id[annotation["id"]][name] for name in names} == {name: annotation[name] for name in names}


def test_a_file_is_indexed_once(coco_folder: Path, cache: Path, readings: list[str]) -> None:
    """Touched, copied or moved it is not read again; with other content it is."""
    path = coco_folder / "instances.json"
    for _ in range(2):
        open_annotations(path)
    assert sorted(readings) == ["annotations", "categories", "images"]
    os.utime(path, (1, 1))
    moved = coco_folder / "moved.json"
    moved.write_bytes(path.read_bytes())
    assert [open_annotations(each).source for each in (path, moved)] == [path, moved]
    assert len(readings) == 3
    path.write_text(path.read_text().replace('"dog"', '"cow"'))
    assert [category.name for category in open_annotations(path).categories] == ["person", "cow"]
    assert len(readings) == 6
    assert [category.name for category in open_annotations(moved).categories] == ["person", "dog"]


def damage(path: Path, change: Callable[[bytes], bytes]) -> None:
    path.write_bytes(change(path.read_bytes()))


def cut(content: bytes) -> bytes:
    return content[:-1]


def flip(content: bytes) -> bytes:
    return content[:9] + bytes([content[9] ^ 4]) + content[10:]


@pytest.mark.parametrize("name", ["images", "annotations", "names", "segments", "index.json"])
def test_a_store_cut_short_is_made_anew(coco_folder: Path, cache: Path, readings: list[str], name: str) -> None:
    write_masks(coco_folder)
    store = open_annotations(coco_folder / "instances.json")
    damage(store.folder / name, cut)
    again = open_annotations(coco_folder / "instances.json")
    assert len(readings) == 6
    assert [again.image(row).name for row in range(3)] == ["7.png", "3.png", "12.png"]


def write_masks(folder: Path) -> None:
    document = json.loads((folder / "instances.json").read_text())
    annotations = [{**a, "segmentation": SQUARE} for a in document["annotations"]]
    (folder / "instances.json").write_text(json.dumps({**document, "annotations": annotations}))


def contents(image: Stored) -> tuple[object, ...]:
    return image.id, image.name, image.height, image.width, image.annotations.tobytes(), image.segments


@pytest.mark.parametrize("name", ["images", "annotations", "names", "segments"])
def test_a_flipped_bit_is_never_learnt_from(coco_folder: Path, cache: Path, name: str) -> None:
    """It is found when the image is read, and the next start makes the store anew."""
    write_masks(coco_folder)
    path = coco_folder / "instances.json"
    whole = [contents(open_annotations(path).image(row)) for row in range(3)]
    damage(open_annotations(path).folder / name, flip)
    damaged = open_annotations(path)
    with pytest.raises(
        vertebra.InputError, match=r"the copy of .*instances\.json in the cache.* was damaged; start again"
    ):
        [damaged.image(row) for row in range(3)]
    assert [contents(open_annotations(path).image(row)) for row in range(3)] == whole


@pytest.mark.parametrize("name", ["images", "annotations", "names", "segments"])
def test_a_file_that_is_cut_while_it_is_open(coco_folder: Path, cache: Path, name: str) -> None:
    """Where it were mapped, the process would die of it."""
    write_masks(coco_folder)
    store = open_annotations(coco_folder / "instances.json")
    os.truncate(store.folder / name, 10)
    with pytest.raises(vertebra.InputError, match="was damaged; start again"):
        [store.image(row) for row in range(3)]


def test_several_processes_at_once(real_data: Path, cache: Path) -> None:
    """All get it whole, and nothing but the store and what finds it is left."""
    path = real_data / "coco_mini" / "annotations" / "instances_val2017.json"
    code = "import sys; from pathlib import Path; from vertebra.tools.data.indexing import open_annotations as o\n"
    code += "s = o(Path(sys.argv[1])); print(sum(len(s.image(i).annotations) for i in range(len(s))))"
    processes = [
        subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True) for _ in range(3)
    ]
    counted = {process.communicate(timeout=120)[0].strip() for process in processes}
    assert counted == {str(len(json.loads(path.read_text())["annotations"]))}
    assert sorted(entry.suffix for entry in cache.iterdir()) == ["", ".json", ".lock"]


def test_a_store_goes_to_other_processes_by_its_path(coco_folder: Path, cache: Path) -> None:
    images = read_coco(coco_folder / "instances.json", coco_folder / "images").images
    sent = pickle.dumps(images)
    assert len(sent) < 2000
    assert pickle.loads(sent)[0].boxes.tolist() == images[0].boxes.tolist()


def test_a_cache_that_cannot_be_written(coco_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(vertebra.InputError, match=r"the cache .*file.* cannot be written .*; make room there, or set"):
        open_annotations(coco_folder / "instances.json")


def test_lists_in_any_order_with_a_byte_order_mark(
    coco_folder: Path, coco_document: dict[str, Any], cache: Path
) -> None:
    path = coco_folder / "instances.json"
    expected = [image.boxes.tolist() for image in read_coco(path, coco_folder / "images").images]
    turned = {
        "info": {"annotations": [1]},
        **{key: coco_document[key] for key in ("annotations", "categories", "images")},
    }
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(turned, indent=1).encode())
    assert [image.boxes.tolist() for image in read_coco(path, coco_folder / "images").images] == expected


def test_annotations_without_ids_get_free_ones(coco_folder: Path, coco_document: dict[str, Any], cache: Path) -> None:
    first, *rest = coco_document["annotations"]
    nameless = {key: value for key, value in first.items() if key != "id"}
    document = {**coco_document, "annotations": [nameless, *rest, {**first, "id": "x"}]}
    (coco_folder / "instances.json").write_text(json.dumps(document))
    found = read_coco(coco_folder / "instances.json", coco_folder / "images").document["annotations"]
    assert [a["id"] for a in found] == [5, 2, 6, 3, 4]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": [{"id": 7, "file_name": "7.png", "height": 60, "width": 80}] * 2}, "two images have the id 7"),
        ({"categories": [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]}, "'a' and 'b' have the same id 1"),
        ({"images": ["7.png"]}, "'images' holds '7.png'"),
        ({"images": []}, "lists 0 images and 2 categories"),
        ({"images": [{"id": 7, "file_name": "7.png", "height": 80_000_000, "width": 12}]}, "sides are 1 to 1,048,576"),
        ({"images": [{"id": 7, "file_name": "7.png", "height": 0, "width": 12}]}, "image 7 has height 0 and width 12"),
        ({"images": [{"id": 2**70, "file_name": "7.png", "height": 60, "width": 80}]}, "instances.json is not"),
    ],
)
def test_what_is_refused(
    coco_folder: Path, coco_document: dict[str, Any], cache: Path, change: dict[str, Any], message: str
) -> None:
    (coco_folder / "instances.json").write_text(json.dumps({**coco_document, "annotations": [], **change}))
    with pytest.raises(vertebra.InputError, match=message):
        open_annotations(coco_folder / "instances.json")
    assert [entry for entry in cache.iterdir() if entry.suffix != ".lock"] == []  # nothing half-made stays


def test_a_malformed_segmentation_matters_to_masks_only(
    coco_folder: Path, coco_document: dict[str, Any], cache: Path
) -> None:
    first, *rest = coco_document["annotations"]
    bad = {"size": [60, 80], "counts": [1]}
    document = {**coco_document, "annotations": [{**first, "segmentation": bad}, *rest]}
    (coco_folder / "instances.json").write_text(json.dumps(document))
    data = read_coco(coco_folder / "instances.json", coco_folder / "images")
    assert data.images[0].boxes.tolist() == [[10, 20, 40, 35]]
    assert data.document["annotations"][0]["segmentation"] == bad
    with pytest.raises(vertebra.InputError, match="annotation 1 is damaged"):
        require_masks(data)
