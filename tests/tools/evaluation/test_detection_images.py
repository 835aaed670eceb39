"""AP for any choice of images is COCO's of as many copies of them; the quality of images by hand."""

import contextlib
import io
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from vertebra.tools.data.sets import Category
from vertebra.tools.evaluation.detection_images import DetectionImages, confident
from vertebra.tools.evaluation.matching import match

AllCases = Callable[..., Any]


def images_of(case: Any, thresholds: Sequence[float | None] | None = None, iou: float | None = None) -> DetectionImages:
    matches = match(*case[:5])
    return DetectionImages(case.document, case.kind, matches, thresholds or [None] * len(case.categories), iou=iou)


def coco_precision(case: Any, counts: Sequence[int]) -> Any:
    """Return pycocotools' precision (10, 101, K) of so many copies of each image."""
    of = dict(zip(case.image_ids, counts, strict=True))
    images = case.document["images"]

    def index(records: list[dict[str, Any]]) -> COCO:
        copies = [
            {**record, "image_id": 1000 * record["image_id"] + k}
            for record in records
            for k in range(of[record["image_id"]])
        ]
        coco = COCO()
        coco.dataset = {
            "images": [{**image, "id": 1000 * image["id"] + k} for image in images for k in range(of[image["id"]])],
            "annotations": [{**record, "id": id} for id, record in enumerate(copies, start=1)],
            "categories": case.document["categories"],
        }
        coco.createIndex()
        return coco

    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(index(case.truth), index(case.found), iouType=case.kind)
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation.eval["precision"][:, :, :, 0, -1]


def mean(precision: Any) -> float:
    known = precision[precision > -1]
    return float(known.mean()) if len(known) else float("nan")


@pytest.mark.parametrize("kind", ["bbox", "segm"])
@pytest.mark.parametrize("seed", range(6))
def test_each_image_once_is_coco(detection_case: AllCases, seed: int, kind: str) -> None:
    case = detection_case(seed, kind)
    precision = coco_precision(case, [1] * 8)
    for iou, rows in ((None, slice(None)), (0.5, slice(0, 1)), (0.75, slice(5, 6))):
        value = images_of(case, iou=iou).value(np.ones(8))
        assert value == pytest.approx(mean(precision[rows]), abs=1e-12)


@pytest.mark.parametrize("kind", ["bbox", "segm"])
@pytest.mark.parametrize("seed", range(0, 12, 2))
def test_copies_of_images_are_coco_of_the_copies(detection_case: AllCases, seed: int, kind: str) -> None:
    """Scores differ here: among equal ones, copies of an image stand otherwise than one that counts twice."""
    case = detection_case(seed, kind)
    counts = np.random.default_rng(seed).integers(0, 4, 8)
    expected = pytest.approx(mean(coco_precision(case, counts.tolist())), abs=1e-12, nan_ok=True)
    assert images_of(case).value(counts) == expected


def test_real_objects(real_case: AllCases) -> None:
    case = real_case(0, "bbox")
    images = images_of(case)
    counts = np.ones(len(case.image_ids))
    assert images.value(counts) == pytest.approx(mean(coco_precision(case, counts.astype(int).tolist())), abs=1e-12)
    assert 0.05 < images.value(counts) < 0.6
    assert images.metric == "bbox/AP"
    assert images_of(case, iou=0.75).metric == "bbox/AP75"


def test_a_class_without_objects_in_the_draw_is_left_out(by_hand: Any) -> None:
    """Of the cats of image 1 all are found, of the dogs of image 2 none, and one cat is false there."""
    cats = (51 + 50 * 2 / 3) / 101  # precision 1 at the recalls 0 to 0.5, then 2/3
    assert by_hand.value(np.array([1, 1, 0, 0])) == pytest.approx((cats + 0) / 2)
    assert by_hand.value(np.array([3, 0, 0, 0])) == pytest.approx(1)
    assert by_hand.value(np.array([0, 2, 1, 1])) == 0
    assert np.isnan(by_hand.value(np.array([0, 0, 1, 1])))


def record(image: int, category: int, box: list[float], score: float | None = None, crowd: int = 0) -> dict[str, Any]:
    return {
        "image_id": image,
        "category_id": category,
        "bbox": box,
        "area": box[2] * box[3],
        "iscrowd": crowd,
        **({} if score is None else {"score": score}),
    }


CAT, DOG = Category(3, "cat"), Category(5, "dog")


@pytest.fixture
def by_hand() -> DetectionImages:
    """Four images: all found; missed and false ones, in a crowd, below its threshold; nothing; a false one alone."""
    truth = [
        record(1, 3, [0, 0, 10, 10]),
        record(1, 3, [20, 0, 10, 10]),
        record(2, 5, [0, 0, 10, 10]),
        record(2, 5, [50, 50, 10, 10]),
        record(2, 5, [100, 0, 100, 100], crowd=1),
    ]
    found = [
        record(1, 3, [0, 0, 10, 10], 0.9),
        record(1, 3, [20, 0, 10, 10], 0.8),
        record(1, 3, [40, 40, 10, 10], 0.69),  # false, below the threshold of its class
        record(2, 3, [0, 0, 10, 10], 0.9),  # a dog taken for a cat
        record(2, 5, [70, 70, 10, 10], 0.7),  # false
        record(2, 5, [110, 10, 10, 10], 0.9),  # in the crowd
        record(4, 5, [0, 0, 10, 10], 0.5),  # false; the best threshold of dogs is not known
        record(4, 5, [0, 0, 10, 10], 0.49),
    ]
    document = {"images": [{"id": id, "file_name": f"{id}.jpg"} for id in (1, 2, 3, 4)]}
    return DetectionImages(document, "bbox", match(truth, found, (CAT, DOG), [1, 2, 3, 4], "bbox"), [0.7, None])


def test_quality_by_hand(by_hand: DetectionImages) -> None:
    assert by_hand.names == ("1.jpg", "2.jpg", "3.jpg", "4.jpg")
    np.testing.assert_array_equal(by_hand.quality, [1, 0, np.nan, 0])


def test_what_was_found_in_words(by_hand: DetectionImages) -> None:
    assert [by_hand.describe(row) for row in range(4)] == [
        "2 of 2 found",
        "0 of 2 found; 2 false, 1 of them of wrong class",
        "nothing there, nothing found",
        "nothing there; 1 false",
    ]


def test_quality_has_the_overlap() -> None:
    """One of two is found with an IoU of 0.8, and one detection is false: 0.8 / (1 + (1 + 1) / 2)."""
    truth = [record(1, 3, [0, 0, 10, 10]), record(1, 3, [50, 50, 10, 10])]
    found = [record(1, 3, [0, 0, 8, 10], 0.9), record(1, 3, [0, 0, 7, 10], 0.8)]
    document = {"images": [{"id": 1, "file_name": "1.jpg"}]}
    images = DetectionImages(document, "bbox", match(truth, found, (CAT, DOG), [1], "bbox"), [0.5, 0.5])
    assert images.quality == pytest.approx([0.4])


def test_detections_of_other_categories_are_never_confident() -> None:
    found = [record(1, 3, [0, 0, 8, 10], 0.9), record(1, 99, [0, 0, 8, 10], 0.9)]
    matches = match([], found, (CAT, DOG), [1], "bbox")
    np.testing.assert_array_equal(confident(matches, [0.9, None]), [True, False])
