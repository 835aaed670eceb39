"""The metrics of a class: by hand, and by trying every threshold on what pycocotools matched."""

import contextlib
import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from vertebra.tools.data.sets import Category
from vertebra.tools.evaluation.class_scores import best_f1
from vertebra.tools.evaluation.coco import CocoEvaluator
from vertebra.tools.evaluation.outcomes import Outcomes


def outcomes(*found: tuple[float, bool], objects: int) -> Outcomes:
    scores, right = (np.array(values) for values in zip(*found, strict=True))
    return Outcomes(scores, right, objects, len(found))


def test_the_best_threshold_by_hand() -> None:
    """2 hits / (kept + objects): 2/5 at 0.9, 4/7 at 0.8, 6/8 at 0.7, 6/9 at 0.1."""
    found = outcomes((0.9, True), (0.1, False), (0.8, False), (0.8, True), (0.7, True), objects=4)
    assert best_f1(found) == pytest.approx((3 / 4, 3 / 4, 6 / 8, 0.7))


def test_equal_scores_are_kept_together() -> None:
    """With the two right ones of score 0.5 alone F1 would be 1, which no threshold gives."""
    found = outcomes((0.5, True), (0.5, True), (0.5, False), objects=2)
    assert best_f1(found) == pytest.approx((2 / 3, 1, 4 / 5, 0.5))


def test_of_equal_f1_the_higher_threshold() -> None:
    """One of two objects alone: 2/3; with two false ones and the other: 4/6."""
    found = outcomes((0.9, True), (0.4, False), (0.4, False), (0.3, True), objects=2)
    assert best_f1(found)[3] == 0.9


def test_nothing_right() -> None:
    assert best_f1(outcomes((0.9, False), objects=3)) == (None, 0, 0, None)
    assert best_f1(Outcomes(np.zeros(0), np.zeros(0, bool), 3, 0)) == (None, 0, 0, None)


@pytest.mark.parametrize("reference", [False, True])
def test_each_class(reference: bool) -> None:
    """Two of three apples; a pear that lies in a crowd; and kiwis that are not there."""
    square = [[0, 0, 10, 10], [20, 0, 10, 10], [40, 0, 10, 10], [60, 0, 10, 10]]
    document = {
        "images": [{"id": 4, "height": 50, "width": 80}],
        "categories": [{"id": 9, "name": "apple"}, {"id": 2, "name": "pear"}, {"id": 5, "name": "kiwi"}],
        "annotations": [
            *({"id": i, "image_id": 4, "category_id": 9, "bbox": square[i]} for i in range(3)),
            {"id": 3, "image_id": 4, "category_id": 2, "bbox": [0, 20, 80, 30], "iscrowd": 1},
            {"id": 4, "image_id": 4, "category_id": 2, "bbox": square[3]},
        ],
    }
    categories = [Category(c["id"], c["name"]) for c in document["categories"]]
    evaluator = CocoEvaluator(document, categories, reference=reference)
    evaluator.add(
        [
            {"image_id": 4, "category_id": category, "bbox": box, "score": score}
            for category, box, score in (
                (9, square[0], 0.9),
                (9, [20, 0, 10, 6], 0.8),  # IoU 0.6
                (9, square[3], 0.7),
                (2, [10, 25, 20, 20], 0.6),
                (2, square[3], 0.5),
                (5, square[3], 0.4),
            )
        ]
    )
    pear, kiwi, apple = evaluator.scores("bbox").classes
    assert (kiwi.name, kiwi.objects, kiwi.detections, kiwi.AP, kiwi.f1) == ("kiwi", 0, 1, None, None)
    # In the crowd nothing is right or wrong.
    assert (pear.name, pear.objects, pear.detections) == ("pear", 1, 2)
    assert (pear.AP, pear.precision, pear.recall, pear.f1, pear.threshold) == pytest.approx((1, 1, 1, 1, 0.5))
    # Two of three until an IoU of 0.6, 67 of the 101 recalls; then one, 34.
    assert (apple.name, apple.objects, apple.detections) == ("apple", 3, 3)
    of_curves = (apple.AP50, apple.AP75, apple.AP, apple.AR)
    assert of_curves == pytest.approx((67 / 101, 34 / 101, (3 * 67 + 7 * 34) / 1010, (3 * 2 / 3 + 7 * 1 / 3) / 10))
    assert (apple.precision, apple.recall, apple.f1, apple.threshold) == pytest.approx((1, 2 / 3, 4 / 5, 0.8))
    metrics, _ = evaluator.compute()
    assert metrics["bbox_AP"] == pytest.approx({"pear": 1, "apple": (3 * 67 + 7 * 34) / 1010})


def tried(case: Any, max_dets: int) -> list[tuple[float | None, ...]]:
    """Return objects, precision, recall, F1 and threshold of each class, by trying all thresholds."""

    def index(records: list[dict[str, Any]]) -> COCO:
        coco = COCO()
        coco.dataset = {**case.document, "annotations": [dict(record) for record in records]}
        coco.createIndex()
        return coco

    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(index(case.truth), index(case.found), case.kind)
        evaluation.params.maxDets = [max_dets]
        evaluation.evaluate()
    found: list[tuple[float | None, ...]] = []
    for category in sorted(c.id for c in case.categories):
        images = [e for e in evaluation.evalImgs if e and e["category_id"] == category]
        images = [e for e in images if e["aRng"] == [0, 1e10]]
        objects = sum(int((np.asarray(e["gtIgnore"]) == 0).sum()) for e in images)
        nothing = np.zeros(0)
        scores = np.concatenate([nothing, *(e["dtScores"] for e in images)])
        hit = np.concatenate([nothing, *(e["dtMatches"][0] for e in images)]) > 0
        ignored = np.concatenate([nothing, *(e["dtIgnore"][0] for e in images)]) > 0
        best: tuple[float | None, ...] = (None, 0, 0, None) if objects else (None,) * 4
        for threshold in sorted(set(scores.tolist()), reverse=True):
            kept = (scores >= threshold) & ~ignored
            if objects and (kept & hit).any():
                precision, recall = (kept & hit).sum() / kept.sum(), (kept & hit).sum() / objects
                f1 = 2 * precision * recall / (precision + recall)
                if f1 > (best[2] or 0) + 1e-12:
                    best = (precision, recall, f1, threshold)
        found.append((objects, *best))
    return found


@pytest.mark.parametrize("kind", ["bbox", "segm"])
@pytest.mark.parametrize("max_dets", [2, 100])
def test_equal_to_trying_all_thresholds(kind: str, max_dets: int, detection_case: Callable[..., Any]) -> None:
    for seed in range(8):
        case = detection_case(seed, kind)
        evaluator = CocoEvaluator(case.document, case.categories, max_dets=[1, max_dets])
        evaluator.add([{"bbox": [0, 0, 0, 0], **record} for record in case.found])
        classes = evaluator.scores(kind).classes
        assert [each.detections for each in classes] == [
            sum(record["category_id"] == category.id for record in case.found) for category in case.categories
        ]
        for each, expected in zip(classes, tried(case, max_dets), strict=True):
            values = (each.objects, each.precision, each.recall, each.f1, each.threshold)
            assert [value is None for value in values] == [value is None for value in expected]
            assert [v for v in values if v is not None] == pytest.approx([v for v in expected if v is not None])
