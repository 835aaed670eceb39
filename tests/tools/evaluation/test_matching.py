"""Matches of detections with objects are those of pycocotools; boundaries are faster-coco-eval's."""

import contextlib
import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from vertebra.tools.evaluation.detection_images import DetectionImages
from vertebra.tools.evaluation.matching import match

AllCases = Callable[..., Any]


def evaluated(case: Any, max_dets: int) -> COCOeval:
    with contextlib.redirect_stdout(io.StringIO()):
        sides = []
        for records in (case.truth, case.found):
            coco = COCO()
            coco.dataset = {**case.document, "annotations": [dict(record) for record in records]}
            coco.createIndex()
            sides.append(coco)
        evaluation = COCOeval(*sides, iouType=case.kind)
        evaluation.params.maxDets = [max_dets]
        evaluation.evaluate()
    return evaluation


def check(case: Any, max_dets: int) -> int:
    """Compare everything that pycocotools says of objects of any area; return how many detections that were."""
    matches = match(case.truth, case.found, case.categories, case.image_ids, case.kind, max_dets=max_dets)
    kept = np.zeros(len(case.found), bool)
    for reference in evaluated(case, max_dets).evalImgs:
        if reference is None or reference["aRng"] != [0, 1e5**2]:
            continue
        rows, objects = (np.array(reference[key], int) - 1 for key in ("dtIds", "gtIds"))
        kept[rows] = True
        np.testing.assert_array_equal(matches.matched[:, rows] + 1, reference["dtMatches"])
        np.testing.assert_array_equal(matches.ignored[:, rows], reference["dtIgnore"])
        np.testing.assert_array_equal(matches.rank[rows], np.arange(len(rows)))
        np.testing.assert_array_equal(matches.truth_ignored[objects], reference["gtIgnore"])
    np.testing.assert_array_equal(matches.kept, kept)
    assert (matches.matched[:, ~kept] == -1).all()
    assert not matches.ignored[:, ~kept].any()
    return int(kept.sum())


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_random_cases_equal_pycocotools(detection_case: AllCases, kind: str) -> None:
    """Crowds, equal scores and overlaps, boxes without area, more detections than count."""
    assert sum(check(detection_case(seed, kind), 2 if seed % 3 == 0 else 100) for seed in range(24)) > 800


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_real_objects_equal_pycocotools(real_case: AllCases, kind: str) -> None:
    assert check(real_case(0, kind), 100) > 500


def test_boundaries_equal_faster_coco_eval(detection_case: AllCases) -> None:
    import faster_coco_eval as other

    case = detection_case(4, "segm")
    matches = match(case.truth, case.found, case.categories, case.image_ids, "boundary")
    sides = [
        other.COCO({**case.document, "annotations": [{**record, "bbox": [0, 0, 1, 1]} for record in records]})
        for records in (case.truth, case.found)
    ]
    evaluation = other.COCOeval_faster(*sides, iouType="boundary", print_function=lambda *_: None)
    evaluation.evaluate()
    evaluation.accumulate()
    precision = evaluation.eval["precision"][:, :, :, 0, -1]
    images = DetectionImages(case.document, "boundary", matches, [None] * 3)
    assert images.value(np.ones(8)) == pytest.approx(precision[precision > -1].mean(), abs=1e-12)
    masks = DetectionImages(case.document, "segm", match(*case[:5]), [None] * 3)
    assert images.value(np.ones(8)) < masks.value(np.ones(8))


def test_records_of_other_images_and_categories_do_not_count(detection_case: AllCases) -> None:
    """They take no object, and no place among the best of an image."""
    case = detection_case(1, "bbox")
    alone = match(*case[:5], max_dets=2)
    best = max(record["score"] for record in case.found) + 1
    strangers = [
        {**record, **change, "score": best}
        for record in case.found
        for change in ({"image_id": 1000}, {"category_id": 1000})
    ]
    objects = [{**record, "image_id": 1000} for record in case.truth] + [{**r, "category_id": 1} for r in case.truth]
    both = match(case.truth + objects, case.found + strangers, *case[2:5], max_dets=2)
    count = len(case.found)
    np.testing.assert_array_equal(both.matched[:, :count], alone.matched)
    np.testing.assert_array_equal(both.kept[:count], alone.kept)
    np.testing.assert_array_equal(both.overlaps.iou, alone.overlaps.iou)
    assert not both.kept[count:].any()
    assert both.objects.sum() == alone.objects.sum()


@pytest.mark.parametrize("kind", ["bbox", "segm", "boundary"])
def test_nothing_found_and_nothing_there(detection_case: AllCases, kind: str) -> None:
    case = detection_case(0, "bbox" if kind == "bbox" else "segm")
    assert match(case.truth, [], *case[2:4], kind).matched.shape == (10, 0)
    matches = match([], case.found, *case[2:4], kind)
    assert (matches.matched == -1).all()
    assert matches.kept.all()
    assert not matches.ignored.any()
    assert match([], [], *case[2:4], kind).objects.shape == (0,)
