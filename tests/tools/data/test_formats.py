"""Known kinds of label PNGs, and names of classes from files."""

import json
from pathlib import Path

import pytest
from torchvision.models.segmentation import DeepLabV3_ResNet50_Weights

import vertebra
from vertebra.tools.data.coco import read_coco
from vertebra.tools.data.formats import COCO_IDS, FORMATS, category_names, read_names


def test_voc_has_the_names_of_torchvisions_weights() -> None:
    weights = DeepLabV3_ResNet50_Weights.COCO_WITH_VOC_LABELS_V1
    assert list(FORMATS["voc"].names) == weights.meta["categories"]
    assert FORMATS["voc"].values == tuple(range(21))


def test_cocos_ids(real_data: Path) -> None:
    """Things by COCO's own file; COCO-Stuff counts 80 things and 91 stuff."""
    root = real_data / "coco_mini"
    data = read_coco(root / "annotations" / "instances_val2017.json", root / "val2017")
    assert COCO_IDS[:80] == tuple(category.id for category in data.categories)
    assert COCO_IDS[80:] == tuple(range(92, 183))
    assert FORMATS["coco_stuffthings"].values[0] == 0
    assert FORMATS["coco_stuffthings"].values[-1] == 181
    assert len(FORMATS["coco_stuffthings"].values) == 171


@pytest.mark.parametrize("row", FORMATS.values(), ids=FORMATS)
def test_rows_are_sound(row: object) -> None:
    assert not set(row.values) & set(row.ignore)
    assert len(set(row.values)) == len(row.values)
    assert len(row.names) in (0, len(row.values))
    assert len(row.ids) in (0, len(row.values))


def test_cityscapes_covers_every_label_id() -> None:
    row = FORMATS["cityscapes"]
    assert {*row.values, *row.ignore} == {*range(34), 255}
    assert dict(zip(row.names, row.values, strict=True))["car"] == 26  # by hand, from the data set's page


def test_names_one_in_a_line(tmp_path: Path, real_data: Path) -> None:
    (tmp_path / "classes.txt").write_text("road\r\n traffic light \n\nsky\n")
    assert read_names(tmp_path / "classes.txt") == ("road", "traffic light", "sky")
    assert len(read_names(real_data / "camvid" / "classes.txt")) == 11
    (tmp_path / "empty.txt").touch()
    with pytest.raises(vertebra.InputError, match=r"empty\.txt is empty"):
        read_names(tmp_path / "empty.txt")
    with pytest.raises(vertebra.InputError, match=r"no names of classes at .*absent\.txt"):
        read_names(tmp_path / "absent.txt")


def test_names_of_things_and_stuff_from_their_files(tmp_path: Path) -> None:
    for name, categories in (("things", {1: "person", 3: "car"}), ("stuff", {92: "banner", 183: "other"})):
        records = [{"id": id, "name": name} for id, name in categories.items()]
        (tmp_path / name).write_text(json.dumps({"categories": records}))
    assert category_names([tmp_path / "things", tmp_path / "stuff"], (92, 1)) == ("banner", "person")
    with pytest.raises(vertebra.InputError, match=r"things name 1 of 2 categories \(first without a name: id 92\)"):
        category_names([tmp_path / "things"], (1, 92))
    (tmp_path / "odd").write_text("[1]")
    with pytest.raises(vertebra.InputError, match="odd has no list `categories`"):
        category_names([tmp_path / "odd"], (1,))
    with pytest.raises(vertebra.InputError, match="no annotations at"):
        category_names([tmp_path / "absent"], (1,))
