"""COCO's numbers and arrays by both libraries: faster-coco-eval gives pycocotools' own on all that files may hold."""

import contextlib
import io
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from vertebra.tools.evaluation.coco_records import found_boxes, found_masks, truth_boxes, truth_masks
from vertebra.tools.evaluation.scoring import KINDS, Backend, Measured, faster, metric_names, pycocotools, totals

Records = list[dict[str, Any]]
Case = Callable[..., Any]


def measured(
    backend: Backend, kind: str, document: dict[str, Any], truth: Records, found: Records, max_dets: Sequence[int]
) -> Measured:
    return backend(kind, document, [dict(record) for record in truth], [dict(record) for record in found], max_dets)


def assert_equal(
    kind: str, document: dict[str, Any], truth: Records, found: Records, max_dets: Sequence[int] = (1, 10, 100)
) -> Measured:
    """Compare both on the same records; return what pycocotools measured."""
    theirs, ours = (measured(backend, kind, document, truth, found, max_dets) for backend in (pycocotools, faster))
    for name in ("precision", "recall", "scores"):
        np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), rtol=0, atol=1e-12, err_msg=name)
    assert totals(ours, max_dets)[0] == pytest.approx(totals(theirs, max_dets)[0], rel=0, abs=1e-12)
    for a, b in zip(ours.outcomes, theirs.outcomes, strict=True):
        assert (a.objects, a.detections) == (b.objects, b.detections)
        assert sorted(zip(a.scores.tolist(), a.right.tolist(), strict=True)) == sorted(
            zip(b.scores.tolist(), b.right.tolist(), strict=True)
        )
    return theirs


def crowded(found: Records, times: int, seed: int) -> Records:
    """Return the detections, those of the image that has most of them so many times, with other scores."""
    rng = np.random.default_rng(seed)
    images, counts = np.unique([record["image_id"] for record in found], return_counts=True)
    most = images[counts.argmax()]
    extra = [record for record in found if record["image_id"] == most] * times
    records = [*found, *({**record, "score": round(rng.random(), 2)} for record in extra)]
    return [{**record, "id": id} for id, record in enumerate(records, start=1)]


@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 20))])
@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_real_objects(kind: str, seed: int, real_case: Case) -> None:
    """Crowds, equal scores, doubles, other classes, and 100 and more detections of a class in an image."""
    case = real_case(seed, kind)
    found = crowded(case.found, 120, seed) if seed % 2 else case.found
    theirs = assert_equal(kind, case.document, case.truth, found)
    assert 0.02 < totals(theirs, (1, 10, 100))[0]["AP"] < 0.9


def test_boundaries_of_real_objects(real_case: Case) -> None:
    case = real_case(0, "boundary")
    document = {**case.document, "images": case.document["images"][:8]}
    theirs = assert_equal("boundary", document, case.truth, case.found)
    masks = measured(pycocotools, "segm", document, case.truth, case.found, (1, 10, 100))
    assert 0.02 < totals(theirs, (1, 10, 100))[0]["AP"] < totals(masks, (1, 10, 100))[0]["AP"]


@pytest.mark.parametrize("kind", KINDS)
def test_random_cases(kind: str, detection_case: Case) -> None:
    for seed in range(6):
        case = detection_case(seed, kind)
        assert_equal(kind, case.document, case.truth, case.found, [(1, 10, 100), (1, 2, 3), (4,)][seed % 3])


SIDE = 12
numbers = st.one_of(st.integers(0, SIDE), st.sampled_from([0.5, 1 / 3, 7.1]))
boxes = st.lists(numbers, min_size=4, max_size=4)
ids = st.sampled_from([0, 3, 2**53, 2**53 + 1])
kinds_of_object = st.sampled_from([0, 1, 5])
scores = st.one_of(st.sampled_from([0.0, 0.5, 0.5, 1.0, -2.0]), st.floats(0, 1))
areas = st.sampled_from([None, 0, 1, 1024, 1025, 9216, 1e10, 2e10])
objects = st.lists(st.tuples(ids, kinds_of_object, boxes, st.booleans(), areas), max_size=12)
detections = st.lists(st.tuples(ids, kinds_of_object, boxes, scores), max_size=20)


def mask_of(box: Sequence[float]) -> dict[str, Any]:
    x, y, w, h = (int(value) for value in box)
    mask = np.zeros((SIDE, SIDE), np.uint8, order="F")
    mask[y : y + h, x : x + w] = 1
    return dict(coco_mask.encode(mask))


@settings(max_examples=30, deadline=None)
@given(objects=objects, detections=detections, max_dets=st.sampled_from([(1, 10, 100), (1, 2, 3)]))
@pytest.mark.parametrize("kind", KINDS)
def test_any_case(kind: str, objects: list[Any], detections: list[Any], max_dets: tuple[int, ...]) -> None:
    """Degenerate boxes, masks without pixels, ids that float64 cannot hold, and categories that are not listed."""
    document = {
        "images": [{"id": id, "height": SIDE, "width": SIDE} for id in (2**53 + 1, 3, 0, 2**53)],
        "categories": [{"id": 5, "name": "b"}, {"id": 0, "name": "a"}],
        "annotations": [
            {"image_id": image, "category_id": category, "bbox": box, "segmentation": mask_of(box), "area": area}
            | ({"iscrowd": int(crowd)} if crowd else {})
            for image, category, box, crowd, area in objects
        ],
    }
    results = [
        {"image_id": image, "category_id": category, "bbox": box, "segmentation": mask_of(box), "score": score}
        for image, category, box, score in detections
    ]
    for annotation in document["annotations"]:
        annotation["segmentation"]["counts"] = annotation["segmentation"]["counts"].decode()
    if kind == "bbox":
        assert_equal(kind, document, truth_boxes(document), found_boxes(results), max_dets)
    else:
        assert_equal(kind, document, truth_masks(document), found_masks(results), max_dets)


def test_nothing_at_all() -> None:
    document = {"images": [{"id": 1}], "annotations": [], "categories": [{"id": 1, "name": "a"}]}
    for backend in (faster, pycocotools):
        values, _ = totals(measured(backend, "bbox", document, [], [], (1, 10, 100)), (1, 10, 100))
        assert set(values.values()) == {-1}


@pytest.mark.parametrize("max_dets", [(1, 10, 100), (1, 10, 300), (2, 5, 50)])
def test_the_numbers_and_the_summary_are_pycocotools(max_dets: tuple[int, ...], real_case: Case) -> None:
    """For other numbers of detections than 1, 10, 100 its first line asks for 100, and has nothing to show."""
    case = real_case(1, "bbox")
    found = crowded(case.found, 120, 1)
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        indices = []
        for records in (case.truth, found):
            coco = COCO()
            coco.dataset = {**case.document, "annotations": [dict(record) for record in records]}
            coco.createIndex()
            indices.append(coco)
        theirs = COCOeval(*indices, "bbox")
        theirs.params.maxDets = list(max_dets)
        theirs.evaluate()
        theirs.accumulate()
        said.truncate(0)
        said.seek(0)
        theirs.summarize()
    values, text = totals(measured(faster, "bbox", case.document, case.truth, found, max_dets), max_dets)
    assert list(values) == list(metric_names(max_dets))
    first = int(max_dets[-1] != 100)
    assert list(values.values())[first:] == pytest.approx(theirs.stats.tolist()[first:], rel=0, abs=1e-12)
    precision = theirs.eval["precision"][:, :, :, 0, -1]
    assert values["AP"] == pytest.approx(precision[precision > -1].mean(), rel=0, abs=1e-12)
    assert text.splitlines()[first:] == said.getvalue().rstrip().splitlines()[first:]


def test_the_names_of_the_numbers() -> None:
    of_coco = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
    assert metric_names() == of_coco
    assert metric_names((1, 10, 300))[6:9] == ("AR1", "AR10", "AR300")


@pytest.mark.parametrize(("right", "masks", "boundaries"), [(0, 1.0, 1.0), (1, 1.0, 0.5), (4, 0.7, 0.0)])
@pytest.mark.parametrize("backend", [faster, pycocotools])
def test_boundaries_by_hand(backend: Backend, right: int, masks: float, boundaries: float) -> None:
    """A square of 40 pixels, found so many pixels to the right of it.

    In an image of 100x100 the boundary is round(0.02 x 141.4) = 3 pixels wide: 40² - 34² = 444 pixels. Moved by 1, the
    boundaries share 6 rows x 39 and 34 rows x 4 pixels: 370 of 2 x 444 - 370 = 0.714, which five of the ten thresholds
    let pass; the masks share 0.951. Moved by 4: 6 rows x 36 = 216 of 672 = 0.32; the masks 0.818.
    """

    def square(left: int) -> dict[str, Any]:
        mask = np.zeros((100, 100), np.uint8, order="F")
        mask[20:60, left : left + 40] = 1
        return dict(coco_mask.encode(mask))

    document = {"images": [{"id": 1, "height": 100, "width": 100}], "categories": [{"id": 1, "name": "a"}]}
    common = {"id": 1, "image_id": 1, "category_id": 1, "area": 1600, "iscrowd": 0}
    truth = [{**common, "segmentation": square(20)}]
    found = [{**common, "segmentation": square(20 + right), "score": 0.5}]
    for kind, expected in (("segm", masks), ("boundary", boundaries)):
        values, _ = totals(measured(backend, kind, document, truth, found, (1, 10, 100)), (1, 10, 100))
        assert values["AP"] == pytest.approx(expected)


@pytest.mark.parametrize("backend", [faster, pycocotools])
def test_a_crowd_takes_what_lies_in_it_whatever_its_boundary(backend: Backend) -> None:
    """The one deep inside touches none of the crowd's boundary, and is ignored all the same; the other is right."""
    crowd, inside, alone = (np.zeros((100, 100), np.uint8, order="F") for _ in range(3))
    crowd[:60], inside[20:40, 20:40], alone[70:90, 20:40] = 1, 1, 1
    document = {"images": [{"id": 1, "height": 100, "width": 100}], "categories": [{"id": 1, "name": "a"}]}
    common = {"image_id": 1, "category_id": 1, "area": 400}
    truth = [
        {**common, "id": id, "segmentation": coco_mask.encode(mask), "iscrowd": flag}
        for id, mask, flag in ((1, crowd, 1), (2, alone, 0))
    ]
    found = [
        {**common, "id": id, "segmentation": coco_mask.encode(mask), "iscrowd": 0, "score": score}
        for id, mask, score in ((1, inside, 0.9), (2, alone, 0.5))
    ]
    values, _ = totals(measured(backend, "boundary", document, truth, found, (1, 10, 100)), (1, 10, 100))
    assert values["AP"] == pytest.approx(1)
