"""Mistakes in results are named, each in one line; what is only bad, or little, is not."""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from vertebra.tools.data.sets import Category
from vertebra.tools.evaluation.coco import CocoEvaluator
from vertebra.tools.evaluation.preflight import suspicions

Results = list[dict[str, Any]]
Box = Sequence[float]


@pytest.fixture(scope="module")
def case(real_case: Callable[..., Any]) -> Any:
    return real_case(0, "bbox")


def changed(case: Any, change: Callable[[Box, int, int], Box]) -> Results:
    """Return the detections with `change(box, width, height of the image)` for their boxes."""
    sizes = {image["id"]: (image["width"], image["height"]) for image in case.document["images"]}
    return [{**record, "bbox": list(change(record["bbox"], *sizes[record["image_id"]]))} for record in case.found]


def corners(box: Box) -> Box:
    x, y, w, h = box
    return x, y, x + w, y + h


def centre(box: Box) -> Box:
    x, y, w, h = box
    return x + w / 2, y + h / 2, w, h


def times(box: Box, x: float, y: float) -> Box:
    return box[0] * x, box[1] * y, box[2] * x, box[3] * y


LAYOUTS: dict[str, Callable[[Box, int, int], Box]] = {
    "x, y, width, height normalised to 0..1": lambda box, w, h: times(box, 1 / w, 1 / h),
    "x1, y1, x2, y2 in pixels": lambda box, w, h: corners(box),
    "x1, y1, x2, y2 normalised to 0..1": lambda box, w, h: times(corners(box), 1 / w, 1 / h),
    "centre x, centre y, width, height in pixels": lambda box, w, h: centre(box),
    "centre x, centre y, width, height normalised to 0..1": lambda box, w, h: times(centre(box), 1 / w, 1 / h),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_boxes_in_another_layout(layout: str, case: Any) -> None:
    (line,) = suspicions(case.document, changed(case, LAYOUTS[layout]))
    assert line.startswith(f"the boxes look like {layout}, where x, y, width, height in pixels of the image are expect")


SCALES: dict[str, tuple[Callable[[Box, int, int], Box], float]] = {
    "x, y, width, height in an image whose shorter side was resized to about ": (
        lambda box, w, h: times(box, 800 / min(w, h), 800 / min(w, h)),
        800,
    ),
    "x, y, width, height in an image resized to about ": (lambda box, w, h: times(box, 900 / w, 900 / h), 900),
    "x, y, width, height in an image ": (lambda box, w, h: times(box, 2.5, 2.5), 2.5),
    "x1, y1, x2, y2 in an image whose longer side was resized to about ": (
        lambda box, w, h: times(corners(box), 1333 / max(w, h), 1333 / max(w, h)),
        1333,
    ),
}


@pytest.mark.parametrize("text", SCALES)
def test_boxes_at_another_scale(text: str, case: Any) -> None:
    """The factor is named, and about right."""
    change, expected = SCALES[text]
    (line,) = suspicions(case.document, changed(case, change))
    _, found, rest = line.partition(f"the boxes look like {text}")
    assert found
    number = float(rest.replace("x", " ").replace(",", " ").split()[0])
    assert number == pytest.approx(expected, rel=0.04)


def ids(case: Any, change: Callable[[int, list[int]], int]) -> Results:
    """Return the detections with `change(category id, all ids)` for their categories."""
    known = sorted(category.id for category in case.categories)
    return [{**record, "category_id": change(record["category_id"], known)} for record in case.found]


LABELS: dict[str, Callable[[int, list[int]], int]] = {
    "off by one, each too low by 1": lambda id, known: id - 1,
    "off by one, each too high by 1": lambda id, known: id + 1,
    "off by one, each that of the category before": lambda id, known: known[known.index(id) - 1],
    "like positions in the list of categories, from 1 on": lambda id, known: known.index(id) + 1,
    "like positions in the list of categories, from 0 on": lambda id, known: known.index(id),
}


@pytest.mark.parametrize("text", LABELS)
def test_labels(text: str, case: Any) -> None:
    lines = suspicions(case.document, ids(case, LABELS[text]))
    assert [line for line in lines if line.startswith(f"the category ids look {text}: so read")]
    # COCO's ids have gaps, into which some of them fall.
    assert len(lines) <= 2
    assert all("no such category id" in line for line in lines[:-1])


def test_ids_of_images(case: Any) -> None:
    by_place = [{**record, "image_id": f"{place}"} for place, record in enumerate(case.found)]
    (line,) = suspicions(case.document, by_place)
    assert line.startswith("no image id of the results is in the annotations: there are 0, 1, 2 …, and ")
    some = [*case.found, {**case.found[0], "image_id": -5}]
    (line,) = suspicions(case.document, some)
    assert line == f"1 of {len(some)} results are not counted: the annotations have no such image id (-5)"


def test_ids_of_annotations(case: Any) -> None:
    annotations = [{**a, "id": max(i, 2)} for i, a in enumerate(case.document["annotations"])]
    (line,) = suspicions({**case.document, "annotations": annotations}, case.found)
    assert line.startswith("annotation ids are there more than once (2)")


def random_boxes(case: Any) -> Results:
    rng = np.random.default_rng(0)
    return [
        {
            "image_id": image["id"],
            "category_id": case.categories[rng.integers(len(case.categories))].id,
            "bbox": (rng.random(4) * np.array([image["width"], image["height"]] * 2) / 2).tolist(),
            "score": rng.random(),
        }
        for image in case.document["images"]
        for _ in range(100)
    ]


def whole_images(case: Any) -> Results:
    """Return boxes as of a model that has learnt nothing: all of the image."""
    boxes = {image["id"]: [0, 0, image["width"], image["height"]] for image in case.document["images"]}
    return [{**record, "bbox": boxes[record["image_id"]]} for record in random_boxes(case)]


SILENT: dict[str, Callable[[Any], Results]] = {
    "nothing": lambda case: [],
    "good": lambda case: case.found,
    "the truth itself": lambda case: [{**record, "score": 1.0} for record in case.truth],
    "few": lambda case: changed(case, LAYOUTS["x1, y1, x2, y2 in pixels"])[:5],
    "random boxes": random_boxes,
    "whole images": whole_images,
    "other classes": lambda case: ids(case, lambda id, known: known[id * 37 % len(known)]),
    "one class for all": lambda case: ids(case, lambda id, known: known[0]),
    "boxes without area": lambda case: changed(case, lambda box, w, h: (*box[:2], 0, 0)),
}


@pytest.mark.parametrize("what", SILENT)
def test_nothing_is_said_where_nothing_is_sure(what: str, case: Any) -> None:
    assert suspicions(case.document, SILENT[what](case)) == []


@pytest.mark.parametrize("seed", range(4))
def test_poor_detections_are_no_mistake(seed: int, real_case: Callable[..., Any]) -> None:
    for noise in (0.1, 0.3, 0.6):
        case = real_case(seed, "bbox", noise)
        assert suspicions(case.document, case.found) == []


def test_crowds_and_images_without_objects_do_not_confuse(case: Any) -> None:
    """A crowd over each image, detections on images where nothing is, and annotations without boxes."""
    crowds = [
        {"id": 10**9 + i, "image_id": image["id"], "category_id": 1, "bbox": [0, 0, 9999, 9999], "iscrowd": 1}
        for i, image in enumerate(case.document["images"])
    ]
    empty = {"id": 10**9, "height": 50, "width": 50}
    document = {
        **case.document,
        "images": [*case.document["images"], empty],
        "annotations": [*case.document["annotations"], *crowds, {"id": -1, "image_id": empty["id"], "category_id": 1}],
    }
    results = [*case.found, *({**record, "image_id": empty["id"]} for record in case.found)]
    assert suspicions(document, results) == []
    (line,) = suspicions(document, [{**record, "bbox": corners(record["bbox"])} for record in results])
    assert "x1, y1, x2, y2" in line


def test_the_evaluator_warns_once(case: Any, caplog: pytest.LogCaptureFixture) -> None:
    evaluator = CocoEvaluator(case.document, case.categories)
    evaluator.add(changed(case, LAYOUTS["x1, y1, x2, y2 in pixels"]))
    with caplog.at_level(logging.WARNING, "vertebra"):
        metrics, _ = evaluator.compute()
        again, _ = evaluator.compute()
    assert again == metrics
    (message,) = caplog.messages
    assert "the boxes look like x1, y1, x2, y2 in pixels" in message


def test_categories_in_any_order(case: Any) -> None:
    document = {**case.document, "categories": case.document["categories"][::-1]}
    evaluator = CocoEvaluator(document, [Category(c["id"], c["name"]) for c in document["categories"]])
    evaluator.add(case.found)
    assert [each.name for each in evaluator.scores("bbox").classes] == [c.name for c in case.categories]
