"""Data sets of every kind, opened for every kind of model."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from vertebra import InputError
from vertebra.tools.config import compose, read_config, read_data
from vertebra.tools.data.shapes import SHAPES
from vertebra.tools.data.transforms import Transform
from vertebra.tools.settings import Data, Labels, Merge, Shares, Source, Split
from vertebra.tools.sources import coco_files, open_split

CONFIGS = Path(__file__).parents[2] / "configs" / "datasets"


@pytest.fixture
def of_objects(shapes: Path) -> Data:
    splits = {name: Split(images=name, annotations=f"annotations/{name}.json") for name in ("train", "val")}
    return Data(root=str(shapes), **splits)


@pytest.fixture
def of_labels(tmp_path: Path) -> Data:
    for folder, value in (("images", 90), ("labels", 1)):
        (tmp_path / folder).mkdir()
        for name in "abcd":
            cv2.imwrite(str(tmp_path / folder / f"{name}.png"), np.full((8, 12), value, np.uint8))
    (tmp_path / "names.txt").write_text("sky\nroad\n")
    split = Split(images="images", labels="labels")
    return Data(root=str(tmp_path), train=split, val=split, labels=Labels(names_file="names.txt"))


@pytest.fixture
def of_folders(tmp_path: Path) -> Data:
    for name in ("cats", "dogs"):
        (tmp_path / "train" / name).mkdir(parents=True)
        for i in range(3):
            cv2.imwrite(str(tmp_path / "train" / name / f"{i}.png"), np.full((8, 8, 3), 9, np.uint8))
    return Data(root=str(tmp_path), train=Split(images="train"))


def test_objects_for_every_model(of_objects: Data) -> None:
    document = json.loads((Path(of_objects.root or "") / "annotations" / "train.json").read_text())
    boxes = open_split(of_objects, "train", ("boxes", "labels"))
    assert sum(len(image.targets(("labels",))["labels"]) for image in boxes.images) == len(document["annotations"])
    assert not boxes.images[0].segmentations
    masks = open_split(of_objects, "train", ("boxes", "labels", "masks"))
    assert set(masks.images[0].targets(("boxes", "masks"))) == {"boxes", "masks"}
    pixels = open_split(of_objects, "train", ("semantic",))
    assert [category.name for category in pixels.categories] == ["__background__", *SHAPES]
    crops = open_split(of_objects, "train", ("label",))
    assert len(crops.images) == len(document["annotations"])
    assert [category.name for category in crops.categories] == list(SHAPES)


def test_objects_of_some_categories(of_objects: Data) -> None:
    chosen = replace(of_objects, labels=Labels(names=("star", "circle")))
    found = open_split(chosen, "val", ("semantic",))
    assert [category.name for category in found.categories] == ["__background__", "star", "circle"]


def ids(data: Data, split: str) -> list[int]:
    return [image.id for image in open_split(data, split, ("boxes", "labels")).images]


def test_one_file_divided(of_objects: Data) -> None:
    one = replace(of_objects, val=Split(), split=Shares(val=0.25, test=0.25))
    found = {name: ids(one, name) for name in ("train", "val", "test")}
    assert {name: len(split) for name, split in found.items()} == {"train": 4, "val": 2, "test": 2}
    assert sorted(id for split in found.values() for id in split) == ids(of_objects, "train")
    assert [file.split for file in coco_files(one)] == ["train"]
    # With files of its own for val, only test takes images of train.
    both = replace(of_objects, split=Shares(val=0.25, test=0.25))
    assert ids(both, "val") == ids(of_objects, "val")
    assert len(ids(both, "train")) == 6


def test_joined_files_of_some_classes(of_objects: Data) -> None:
    more = replace(of_objects.train, joined=[Source("val", "annotations/val.json")])
    joined = replace(of_objects, train=more, classes=("round", "star"), merge=[Merge("round", ("circle", "square"))])
    found = open_split(joined, "train", ("boxes", "labels"))
    assert [(category.id, category.name) for category in found.categories] == [(1, "round"), (7, "star")]
    assert ids(joined, "train") == list(range(1, 13))
    documents = [
        json.loads((Path(of_objects.root or "") / "annotations" / f"{name}.json").read_text())
        for name in ("train", "val")
    ]
    kinds = [a["category_id"] for document in documents for a in document["annotations"]]
    labels = [int(label) for image in found.images for label in image.labels]
    assert labels.count(1) == kinds.count(1) + kinds.count(3)
    assert labels.count(2) == kinds.count(7)
    bounded = replace(joined, classes=("star",), merge=[], empty_ratio=0)
    assert all(len(image.labels) for image in open_split(bounded, "train", ("boxes", "labels")).images)
    assert len(ids(bounded, "val")) == 4  # what is measured stays whole


def test_choices_of_data_from_a_file(shapes: Path, tmp_path: Path) -> None:
    """All keys survive being written with a run and read again."""
    (tmp_path / "mine.yaml").write_text(
        f"data:\n  root: {shapes}\n  split: {{val: 0.5}}\n  classes: [round]\n"
        "  merge: [{name: round, of: [circle, star]}]\n"
        "  empty_ratio: 0.5\n  sampling: {order: repeat_factor, threshold: 0.2, group_shapes: true}\n"
        "  train: {images: train, annotations: annotations/train.json, "
        "joined: [{images: val, annotations: annotations/val.json}]}\n"
    )
    config = compose(None, {"data": str(tmp_path / "mine.yaml")}, (), ())
    assert config.data.merge == [Merge("round", ("circle", "star"))]
    assert config.data.sampling.group_shapes
    (tmp_path / "config.yaml").write_text(config.to_yaml())
    assert read_config(tmp_path / "config.yaml") == config
    assert read_data(str(tmp_path / "mine.yaml")) == config.data
    assert len(ids(config.data, "val")) == 6


def test_label_folders(of_labels: Data) -> None:
    found = open_split(of_labels, "val", ("semantic",))
    assert [(category.id, category.name) for category in found.categories] == [(0, "sky"), (1, "road")]
    assert (found.images[0].targets(("semantic",))["semantic"] == 1).all()
    with pytest.raises(InputError, match=r"unknown data\.labels\.format 'vocc'\. Did you mean 'voc'\?"):
        open_split(replace(of_labels, labels=Labels(format="vocc")), "val", ("semantic",))
    voc = open_split(replace(of_labels, labels=Labels(format="voc")), "val", ("semantic",))
    assert len(voc.categories) == 21


def test_class_folders_and_a_limit_that_leaves_each_class_some(of_folders: Data) -> None:
    found = open_split(replace(of_folders, limit=2), "train", ("label",))
    assert [int(image.targets(("label",))["label"]) for image in found.images] == [0, 1]
    assert len(open_split(replace(of_folders, limit=99), "train", ("label",)).images) == 6


def test_cifar(tmp_path: Path) -> None:
    (tmp_path / "batches.meta.txt").write_text("\n".join("abcdefghij"))
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        (tmp_path / f"{name}.bin").write_bytes(bytes(2 * 3073))
    data = Data(root=str(tmp_path), cifar="cifar10", held_out=3)
    assert [len(open_split(data, split, ("label",)).images) for split in ("train", "val", "test")] == [7, 3, 2]
    with pytest.raises(InputError, match="of CIFAR's images, which give labels of images: choose another head"):
        open_split(data, "train", ("boxes", "labels"))


@pytest.mark.parametrize(
    ("fixture", "keys", "message"),
    [
        ("of_labels", ("boxes", "labels"), "learns from boxes, but the data set is of label PNGs, which give labels"),
        ("of_labels", ("label",), "learns from labels of images, but the data set is of label PNGs"),
        ("of_folders", ("semantic",), "learns from labels of pixels, but the data set is of folders of classes"),
    ],
)
def test_data_that_do_not_suit_the_head(
    fixture: str, keys: tuple[str, ...], message: str, request: pytest.FixtureRequest
) -> None:
    with pytest.raises(InputError, match=message):
        open_split(request.getfixturevalue(fixture), "train", keys)


def test_splits_that_are_not_there(of_folders: Data) -> None:
    with pytest.raises(InputError, match=r"no split 'test': it names no data\.test\.images"):
        open_split(of_folders, "test", ("label",))
    with pytest.raises(InputError, match=r"unknown split 'trian'\. Did you mean 'train'\?"):
        open_split(of_folders, "trian", ("label",))
    with pytest.raises(InputError, match="no data set at /nowhere; say where it is with --data-root"):
        open_split(replace(of_folders, root="/nowhere"), "train", ("label",))


HEADS = {"boxes": "mask_rcnn", "semantic": "deeplabv3plus", "label": "classifier"}


@pytest.mark.parametrize(
    ("name", "key"),
    [
        *((name, key) for name in ("coco", "shapes") for key in HEADS),
        *((name, "semantic") for name in ("camvid", "cityscapes", "coco_stuff", "coco_voc", "voc")),
        *((name, "label") for name in ("cifar10", "cifar100", "imagefolder")),
        *((name, "boxes") for name in ("bccd", "nuclei", "roboflow", "cvat", "label_studio")),
    ],
)
def test_every_data_set_composes_with_its_heads(name: str, key: str) -> None:
    """Their transforms are ready to use, and the readers find what they need in the settings."""
    config = compose(None, {"head": HEADS[key], "backbone": "resnet18", "data": name}, (), [])
    Transform(config.transforms)
    if name != "shapes":
        absent = replace(config.data, root="/nowhere")
        with pytest.raises(InputError, match="/nowhere"):
            open_split(absent, "train", config.head.model.target_keys)


def test_every_data_set_is_tried_above() -> None:
    (mark,) = test_every_data_set_composes_with_its_heads.pytestmark  # type: ignore[attr-defined]
    tried: list[Any] = mark.args[1]
    assert {path.stem for path in CONFIGS.glob("*.yaml")} == {name for name, _ in tried}


def test_the_readmes_data_files_compose(tmp_path: Path) -> None:
    text = (CONFIGS.parents[1] / "README.md").read_text()
    blocks = [block for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL) if "\ndata:\n" in f"\n{block}"]
    assert len(blocks) == 3
    for block in blocks:
        (tmp_path / "mine.yaml").write_text(block)
        head = "deeplabv3plus" if "labels:" in block else "mask_rcnn"
        config = compose(None, {"head": head, "data": str(tmp_path / "mine.yaml")}, (), [])
        Transform(config.transforms)
