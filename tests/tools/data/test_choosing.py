"""Sets made of others: joined, of fewer classes, divided, with fewer empty images."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vertebra
from vertebra.tools.data.choosing import choose_classes, joined, keep_empty, split_off
from vertebra.tools.data.coco import CocoSet, read_coco, require_masks
from vertebra.tools.data.sets import Category

Write = Callable[..., CocoSet]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a file of images with ids from `first` on, whose objects have the categories that are listed for each."""

    def call(name: str, categories: dict[str, int], objects: list[list[str]], first: int = 1) -> CocoSet:
        folder = tmp_path / name
        folder.mkdir()
        images = [
            {"id": id, "file_name": f"{id}.png", "height": 20, "width": 30} for id in range(first, first + len(objects))
        ]
        for image in images:
            (folder / image["file_name"]).touch()
        flat = [(first + i, kind) for i, kinds in enumerate(objects) for kind in kinds]
        annotations = [
            {"id": i, "image_id": image, "category_id": categories[kind], "bbox": [i, 2, 3, 4]}
            for i, (image, kind) in enumerate(flat, start=1)
        ]
        records = [{"id": id, "name": kind} for kind, id in categories.items()]
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": records}))
        return read_coco(path, folder)

    return call


def contents(data: CocoSet) -> list[tuple[str, list[str]]]:
    """File names of the images, each with the names of its objects."""
    names = [category.name for category in data.categories]
    return [(f"{i.path.parent.name}/{i.path.stem}", [names[label - 1] for label in i.labels]) for i in data.images]


def test_joined_sets_share_classes_by_name(write: Write) -> None:
    a = write("a", {"cat": 3, "dog": 5}, [["cat"], ["dog", "cat"]], first=7)
    b = write("b", {"horse": 3, "cat": 9}, [["cat", "horse"], []], first=7)
    both = joined([a, b])
    assert both.categories == (Category(3, "cat"), Category(5, "dog"), Category(6, "horse"))
    assert contents(both) == [("a/7", ["cat"]), ("a/8", ["dog", "cat"]), ("b/7", ["cat", "horse"]), ("b/8", [])]
    assert [image.id for image in both.images] == [7, 8, 9, 10]
    found = both.document
    assert [a["id"] for a in found["annotations"]] == [1, 2, 3, 4, 5]
    assert [(a["image_id"], a["category_id"]) for a in found["annotations"]] == [(7, 3), (8, 5), (8, 3), (9, 3), (9, 6)]
    assert both.images[-1].path.read_bytes() == b""
    with pytest.raises(IndexError):
        both.images[4]


def test_classes_chosen_and_merged(write: Write) -> None:
    data = write("a", {"car": 1, "bus": 4, "cat": 7, "dog": 8}, [["bus", "cat"], ["dog", "car"], ["dog"]])
    chosen = choose_classes(data, ["vehicle", "cat"], {"vehicle": ["bus", "car"]})
    assert chosen.categories == (Category(1, "vehicle"), Category(7, "cat"))
    assert contents(chosen) == [("a/1", ["vehicle", "cat"]), ("a/2", ["vehicle"]), ("a/3", [])]
    assert [(a["id"], a["category_id"]) for a in chosen.document["annotations"]] == [(1, 1), (2, 7), (4, 1)]
    assert choose_classes(data, [], {"pet": ["dog", "cat"]}).categories == (
        *(Category(1, "car"), Category(4, "bus"), Category(7, "pet")),
    )
    assert choose_classes(data, ["dog"], {}).categories == (Category(8, "dog"),)


def test_choices_that_cannot_be(write: Write) -> None:
    data = write("a", {"car": 1, "bus": 4}, [["bus"]])
    with pytest.raises(
        vertebra.InputError, match=r"unknown category of .*a\.json in data\.merge\.v 'buss'\. Did you mean"
    ):
        choose_classes(data, [], {"v": ["buss"]})
    with pytest.raises(vertebra.InputError, match="puts 'bus' into both 'v' and 'w'"):
        choose_classes(data, [], {"v": ["bus"], "w": ["bus"]})
    with pytest.raises(vertebra.InputError, match=r"unknown class of .* in data\.classes 'bus'"):
        choose_classes(data, ["bus"], {"v": ["bus"]})


def test_a_file_divided_by_a_seed(write: Write) -> None:
    data = write("a", {"cat": 1}, [["cat"]] * 20)
    shares = {"val": 0.2, "test": 0.1}
    parts = {name: {i.id for i in split_off(data, shares, 0, name).images} for name in ("train", "val", "test")}
    assert {name: len(ids) for name, ids in parts.items()} == {"train": 14, "val": 4, "test": 2}
    assert set.union(*parts.values()) == set(range(1, 21))
    assert {i.id for i in split_off(data, shares, 1, "val").images} != parts["val"]
    document = split_off(data, shares, 0, "val").document
    assert {a["image_id"] for a in document["annotations"]} == {i["id"] for i in document["images"]} == parts["val"]
    with pytest.raises(vertebra.InputError, match=r"no split 'test': data\.split\.test is 0"):
        split_off(data, {"val": 0.2, "test": 0.0}, 0, "test")
    with pytest.raises(vertebra.InputError, match="below 1 in sum"):
        split_off(data, {"val": 0.6, "test": 0.4}, 0, "val")
    with pytest.raises(vertebra.InputError, match="has 2 images, too few"):
        split_off(write("b", {"cat": 1}, [[], []]), {"val": 0.1, "test": 0.1}, 0, "val")


def test_a_bound_on_empty_images(write: Write) -> None:
    data = write("a", {"cat": 1}, [[], [], ["cat"], [], [], ["cat"], [], []])
    assert [image.id for image in keep_empty(data, 1).images] == [1, 3, 5, 6]  # 1 and 5 of 1, 2, 4, 5, 7, 8
    assert [image.id for image in keep_empty(data, 0).images] == [3, 6]
    assert len(keep_empty(data, 9).images) == 8
    with pytest.raises(vertebra.InputError, match="no images are left"):
        keep_empty(write("b", {"cat": 1}, [[]]), 0)


def test_choices_one_after_the_other(real_data: Path) -> None:
    """Persons with their masks, in a third of two real files joined, counted in the files themselves."""
    root = real_data / "coco_mini"
    files = [root / "annotations" / f"instances_{split}2017.json" for split in ("train", "val")]
    sets = [read_coco(path, root / f"{split}2017") for path, split in zip(files, ("train", "val"), strict=True)]
    data = keep_empty(choose_classes(joined(sets), ["person"], {}), 0)
    third = split_off(data, {"val": 1 / 3, "test": 0.0}, 0, "val")
    documents: list[dict[str, Any]] = [json.loads(path.read_text()) for path in files]
    objects = [
        (number, a["image_id"])
        for number, document in enumerate(documents)
        for a in document["annotations"]
        if a["category_id"] == 1 and not a["iscrowd"]
    ]
    assert sum(len(image.labels) for image in data.images) == len(objects)
    assert len(data.images) == len(set(objects))
    assert len(third.images) == round(len(set(objects)) / 3)
    image = require_masks(third).images[0]
    assert image.masks().dense().shape == (len(image.labels), image.height, image.width)
    assert np.unique(image.labels).tolist() == [1]
