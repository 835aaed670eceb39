"""Reading results files: what is wrong is one line that names the result; the forms that programs write are taken."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from vertebra.backbones import InputError
from vertebra.tools.data.sets import Category
from vertebra.tools.evaluation.coco import CocoEvaluator
from vertebra.tools.evaluation.results import read_instances, read_results

GOOD = {"image_id": 7, "category_id": 18, "bbox": [10, 20, 30, 15], "score": 0.9}
Read = Callable[[Any], list[dict[str, Any]]]


def rle(*box: int, size: tuple[int, int] = (60, 80)) -> dict[str, Any]:
    mask = np.zeros(size, np.uint8, order="F")
    x, y, w, h = box
    mask[y : y + h, x : x + w] = 1
    found = coco_mask.encode(mask)
    return {"size": list(size), "counts": found["counts"].decode()}


@pytest.fixture
def read(tmp_path: Path, coco_document: dict[str, Any]) -> Read:
    def call(content: Any) -> list[dict[str, Any]]:
        path = tmp_path / "results.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return read_results(path, coco_document)

    return call


BAD: dict[str, tuple[Any, str]] = {
    "empty": ([], "results.json is empty: it has no detection to evaluate"),
    "not JSON": ('[{"image_id": 7', "results.json is not JSON: "),
    "a document": ({"images": [], "annotations": []}, "it is an instances file, a list of detections is expected"),
    "a number": (3, "it is int, a list"),
    "no object": ([GOOD, "abc"], "result 1 is 'abc'; image_id, category_id, score"),
    "no score": ([{k: v for k, v in GOOD.items() if k != "score"}], "result 0 has no 'score'"),
    "no shape": ([{k: v for k, v in GOOD.items() if k != "bbox"}], "neither a bbox nor a segmentation"),
    "NaN": ([GOOD, {**GOOD, "score": float("nan")}], "result 1 has the score nan; a finite number is expected"),
    "infinite": ([{**GOOD, "score": float("-inf")}], "result 0 has the score -inf"),
    "a huge number": ([{**GOOD, "bbox": [10, 20, 30, 10**400]}], "has the bbox [10, 20, 30, 1000"),
    "a score in quotes": ([{**GOOD, "score": "0.9"}], "result 0 has the score '0.9'"),
    "a list as id": ([{**GOOD, "image_id": [7]}], "result 0 has '[7]' as 'image_id'"),
    "three numbers": ([{**GOOD, "bbox": [1, 2, 3]}], "result 0 has the bbox [1, 2, 3]; x, y, width, height"),
    "NaN in a box": ([{**GOOD, "bbox": [1, 2, 3, float("nan")]}], "has the bbox [1, 2, 3, nan]"),
    "negative size": ([{**GOOD, "bbox": [30, 20, -10, 5]}], "has the bbox [30, 20, -10, 5], with a negative width"),
    "another data set": (
        [{**GOOD, "image_id": id} for id in (1, 2, 4, 5)],
        "of the 4 image ids none in the annotations (1, 2, 4 …; annotations have ",
    ),
    "a stranger": ([GOOD, {**GOOD, "image_id": 8}], "of the 2 image ids 1 not in the annotations (8; annotations"),
    "ids in quotes": ([{**GOOD, "image_id": "7"}], "('7'; annotations have "),
    "no category": ([{**GOOD, "category_id": 2}], "no category id is in the annotations (2; annotations have "),
    "RLE of another size": (
        [{**GOOD, "segmentation": rle(1, 1, 5, 5, size=(80, 60))}],
        "is for an image of (height, width) [80, 60], its image has [60, 80]",
    ),
    "damaged RLE": (
        [{**GOOD, "segmentation": rle(1, 1, 5, 5)}, {**GOOD, "segmentation": {**rle(1, 1, 5, 5), "counts": "PP3"}}],
        "is damaged: its runs do not add up to the 4800 pixels",
    ),
    "no RLE": (
        [{**GOOD, "segmentation": {"size": [60, 80], "counts": "é"}}],
        " is neither a list of polygons nor an RLE",
    ),
    "a line as polygon": ([{**GOOD, "segmentation": [[1, 2, 3, 4]]}], " has no polygon of three points"),
    "a polygon far away": ([{**GOOD, "segmentation": [[1, 2, 3, 4, 9e9, 6]]}], " has a point further"),
    "masks of some": ([{**GOOD, "segmentation": rle(1, 1, 5, 5)}, GOOD], "result 1 has no segmentation, others have"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_wrong_is_one_line(case: str, read: Read) -> None:
    content, expected = BAD[case]
    with pytest.raises(InputError) as raised:
        read(content)
    message = str(raised.value)
    assert expected in message
    assert "results.json" in message
    assert "\n" not in message


def test_no_file(tmp_path: Path, coco_document: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"no results at .*absent\.json"):
        read_results(tmp_path / "absent.json", coco_document)


def test_some_categories_are_unknown(read: Read) -> None:
    """They are taken: `suspicions` names them."""
    assert len(read([GOOD, {**GOOD, "category_id": 5}, {**GOOD, "category_id": 5}])) == 3


def test_masks_without_boxes_in_each_form(read: Read) -> None:
    """Compressed, uncompressed, and a polygon around the same pixels."""
    box = [10, 20, 30, 15]
    compressed = rle(*box)
    uncompressed = {"size": [60, 80], "counts": [10 * 60 + 20, *[15, 45] * 29, 15, 60 * 80 - 39 * 60 - 35]}
    polygon = [[10, 20, 40, 20, 40, 35, 10, 35]]
    ids = {"image_id": 7, "category_id": 18, "score": 0.5}
    for form in (compressed, uncompressed, polygon):
        assert read([{**ids, "segmentation": form}]) == [{**ids, "bbox": box, "segmentation": compressed}]
        # The file's own box stays.
        (other,) = read([{**ids, "segmentation": form, "bbox": [1, 2, 3, 4], "area": 3, "id": 8}])
        assert other == {**ids, "bbox": [1, 2, 3, 4], "segmentation": compressed}


def test_empty_masks(read: Read) -> None:
    """A mask without pixels is one; an empty list is none."""
    (found,) = read([{"image_id": 7, "category_id": 18, "score": 0.5, "segmentation": rle(0, 0, 0, 0)}])
    assert found["bbox"] == [0, 0, 0, 0]
    assert read([{**GOOD, "segmentation": []}]) == [GOOD]


def test_a_public_file_as_it_is_on_disk(tmp_path: Path) -> None:
    """Annotations without iscrowd, area, bbox or an id of their own, with extra lists, and of images not there."""
    square = [[10, 10, 20, 10, 20, 20, 10, 20]]
    document = {
        "info": {"year": 2017},
        "licenses": [],
        "images": [{"id": 5, "height": 40, "width": 50, "file_name": "a.jpg"}, {"id": 6, "height": 40, "width": 50}],
        "annotations": [
            {"id": 1, "image_id": 5, "category_id": 3, "bbox": [10, 10, 10, 10], "segmentation": square},
            {"id": 1, "image_id": 6, "category_id": 3, "segmentation": square},
            {"image_id": 6, "category_id": 3, "bbox": [30, 5, 8, 8], "segmentation": [[30, 5, 38, 5, 38, 13, 30, 13]]},
            {"id": 4, "image_id": 99, "category_id": 3, "bbox": [0, 0, 9, 9], "segmentation": square},
        ],
        "categories": [{"id": 3, "name": "x", "supercategory": "y"}],
    }
    (tmp_path / "instances.json").write_text(json.dumps(document))
    read, categories = read_instances(tmp_path / "instances.json")
    assert categories == (Category(3, "x"),)
    results = [
        {"image_id": id, "category_id": 3, "bbox": box, "score": 0.5, "segmentation": rle(*box, size=(40, 50))}
        for id, box in ((5, [10, 10, 10, 10]), (6, [10, 10, 10, 10]), (6, [30, 5, 8, 8]))
    ]
    for reference in (False, True):
        evaluator = CocoEvaluator(read, categories, reference=reference)
        evaluator.add(results)
        metrics, _ = evaluator.compute()
        assert metrics["bbox"]["AP"] == metrics["segm"]["AP"] == pytest.approx(1)
        assert metrics["bbox"]["APs"] == pytest.approx(1)
        assert [each.objects for each in evaluator.scores("bbox").classes] == [3]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"images": [{"file_name": "a"}]}, "images[0] has no 'id'"),
        ({"annotations": [{"image_id": 3}]}, "annotations[0] has no 'category_id'"),
        ({"images": []}, "has no images"),
    ],
)
def test_annotations_that_cannot_be_taken(change: dict[str, Any], expected: str, tmp_path: Path) -> None:
    document = {"images": [{"id": 3}], "annotations": [], "categories": [{"id": 1, "name": "x"}], **change}
    (tmp_path / "instances.json").write_text(json.dumps(document))
    with pytest.raises(InputError) as raised:
        read_instances(tmp_path / "instances.json")
    assert expected in str(raised.value)


def test_what_was_written_is_read_again(read: Read, coco_document: dict[str, Any]) -> None:
    import torch

    categories = [Category(18, "dog"), Category(1, "person")]
    evaluator = CocoEvaluator(coco_document, categories)
    masks = torch.rand(2, 1, 60, 80)
    boxes = torch.tensor([[1.25, 2, 30, 40], [0, 0, 70, 50]])
    evaluator.update([7], [{"boxes": boxes, "labels": torch.tensor([1, 2]), "scores": torch.rand(2), "masks": masks}])
    assert read(evaluator.results) == evaluator.results
