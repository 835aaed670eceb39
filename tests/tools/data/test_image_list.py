"""Image lists of COCO: their ids and names, where the images lie, and what is wrong with others."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from vertebra.backbones import InputError
from vertebra.tools.data.image_list import ImageFile, numbered, read_image_list
from vertebra.tools.data.images import RGB
from vertebra.tools.data.sets import Category


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Images of 8x6 pixels, one of them in a folder below."""
    for name in ("a.jpg", "sub/b.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 6)).save(tmp_path / name)
    return tmp_path


def write(folder: Path, document: Any) -> Path:
    path = folder / "info.json"
    path.write_text(json.dumps(document))
    return path


def images(*records: tuple[Any, Any]) -> list[dict[str, Any]]:
    return [{"id": id, "file_name": name, "width": 8, "height": 6} for id, name in records]


def test_an_image_info_file(folder: Path) -> None:
    """As COCO has it: no annotations, ids in any order, categories with a supercategory."""
    document = {
        "info": {"year": 2017},
        "images": images((581929, "a.jpg"), (7, "sub/b.jpg"), (9, "absent.jpg")),
        "licenses": [{"id": 1}],
        "categories": [{"id": 18, "name": "dog", "supercategory": "animal"}, {"id": 1, "name": "person"}],
    }
    found = read_image_list(write(folder, document), folder)
    assert found.images == (
        ImageFile(folder / "a.jpg", 581929, "a.jpg", (6, 8), listed=True),
        ImageFile(folder / "sub" / "b.jpg", 7, "sub/b.jpg", (6, 8), listed=True),
        ImageFile(folder / "absent.jpg", 9, "absent.jpg", (6, 8), listed=True),
    )
    assert found.categories == (Category(1, "person"), Category(18, "dog"))


def test_an_instances_file_and_one_of_images_alone(folder: Path) -> None:
    listed = images((1, "a.jpg"))
    for document in ({"images": listed}, {"images": listed, "annotations": [{"id": 1}], "categories": []}):
        found = read_image_list(write(folder, document), folder)
        assert [image.id for image in found.images] == [1]
        assert found.categories == ()


def test_unknown_sizes(folder: Path) -> None:
    records = [
        {"id": 1, "file_name": "a.jpg"},
        {"id": 2, "file_name": "a.jpg", "width": 0, "height": 0},
        {"id": 3, "file_name": "a.jpg", "width": None, "height": 6},
    ]
    found = read_image_list(write(folder, {"images": records}), folder)
    assert [image.size for image in found.images] == [None] * 3


def test_listed_images_are_not_turned(folder: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn a quarter clockwise to show
    Image.new("RGB", (8, 6)).save(folder / "a.jpg", exif=exif)
    (listed,) = read_image_list(write(folder, {"images": images((1, "a.jpg"))}), folder).images
    assert listed.read(RGB).shape == (6, 8, 3)
    (own,) = numbered([folder / "a.jpg"])
    assert own.read(RGB).shape == (8, 6, 3)
    assert (own.id, own.file_name) == (1, str(folder / "a.jpg"))


def test_an_image_of_another_size(folder: Path) -> None:
    Image.new("RGB", (9, 6)).save(folder / "a.jpg")
    (listed,) = read_image_list(write(folder, {"images": images((1, "a.jpg"))}), folder).images
    with pytest.raises(InputError, match=r"a\.jpg is 9x6, its list says 8x6; were the images resized\?"):
        listed.read(RGB)


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ([{"image_id": 1, "category_id": 1, "bbox": [0, 0, 1, 1], "score": 1}], "lists no images; .*image_info_test"),
        ({"annotations": []}, "lists no images"),
        ({"images": []}, "lists no images"),
        ({"images": ["a.jpg"]}, "'images' holds 'a.jpg'"),
        ({"images": images((1, "a.jpg"), (1, "sub/b.jpg"))}, r"images 'a\.jpg' and 'sub/b\.jpg' have the same id 1"),
        ({"images": images(("x", "a.jpg"))}, "one of the images has the id 'x', a whole number is needed"),
        ({"images": images((True, "a.jpg"))}, "has the id True"),
        ({"images": [{"file_name": "a.jpg"}]}, "has the id None"),
        ({"images": [{"id": 1, "name": "a.jpg"}]}, "an image has no file_name"),
        ({"images": images((1, "../info.json"))}, r"file_name '\.\./info\.json' points outside of"),
        ({"images": images((1, "/etc/hostname"))}, "points outside of"),
        ({"images": images((1, "x.jpg"), (2, "y.jpg"))}, r"none of the 2 images of .* \(first: 'x\.jpg'\); .*--images"),
        ({"images": images((1, "a.jpg")), "categories": [{"name": "dog"}]}, "one of the categories has the id None"),
    ],
)
def test_what_is_refused(folder: Path, document: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_image_list(write(folder, document), folder)


def test_no_json(folder: Path) -> None:
    (folder / "info.json").write_text("hello")
    with pytest.raises(InputError, match=r"info\.json is not JSON"):
        read_image_list(folder / "info.json", folder)


def test_a_list_of_real_images(real_data: Path) -> None:
    """As image_info_test-dev2017.json is: an instances file without its annotations."""
    source = real_data / "coco_mini" / "annotations" / "instances_val2017.json"
    document = json.loads(source.read_text())
    found = read_image_list(source, real_data / "coco_mini" / "val2017")
    assert [image.id for image in found.images] == [record["id"] for record in document["images"]]
    assert all(image.read(RGB).shape[:2] == image.size for image in found.images[:5])
