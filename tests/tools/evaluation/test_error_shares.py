"""Error shares: by hand, and equal to tidecv's."""

from collections.abc import Callable, Iterator
from typing import Any

import matplotlib
import pytest

from vertebra.tools.data.sets import Category
from vertebra.tools.evaluation.error_shares import FALSE, MEANINGS, error_shares
from vertebra.tools.evaluation.matching import match

AllCases = Callable[..., Any]

CATEGORIES = (Category(3, "cat"), Category(5, "dog"))


def record(category: int, box: list[float], score: float | None = None, crowd: int = 0) -> dict[str, Any]:
    return {
        "image_id": 1,
        "category_id": category,
        "bbox": box,
        "area": box[2] * box[3],
        "iscrowd": crowd,
        **({} if score is None else {"score": score}),
    }


# Two cats; the first is found, by the detection of the lowest score.
A, B = [0, 0, 10, 10], [100, 0, 10, 10]
FOUND = (3, A, 0.1)

# What else is found, dogs that are there, and AP before and after the error is mended: the mean over the classes that
# are there or found. Half of the cats are found: of 101 recalls 51, at a precision of 1, or 1/2 after a false one.
ONE_ERROR = {
    "Bkg": ((3, [50, 50, 10, 10], 0.9), [], 51 / 202, 51 / 101),
    "Dupe": ((3, [0, 0, 10, 9], 0.05), [], 51 / 101, 51 / 101),
    # An IoU of 2/18 with a dog, which nothing finds.
    "Both": ((3, [208, 0, 10, 10], 0.9), [[200, 0, 10, 10]], (51 / 202 + 0) / 2, (51 / 101 + 0) / 2),
    # Made right, the second cat is found too.
    "Loc": ((3, [106, 0, 10, 10], 0.9), [], 51 / 202, 1),
    # A dog without dogs: its class counts as long as it is found.
    "Cls": ((5, B, 0.9), [], (51 / 101 + 0) / 2, 1),
}


@pytest.mark.parametrize("kind", ONE_ERROR)
def test_one_error_by_hand(kind: str) -> None:
    more, dogs, before, after = ONE_ERROR[kind]
    truth = [record(3, A), record(3, B), *(record(5, box) for box in dogs)]
    shares = error_shares(match(truth, [record(*FOUND), record(*more)], CATEGORIES, [1], "bbox"))
    assert {name: shares.counts[name] for name in FALSE} == {name: int(name == kind) for name in FALSE}
    assert pytest.approx(100 * before) == shares.AP50
    assert shares.gains[kind] == pytest.approx(100 * (after - before))
    assert all(shares.gains[name] == 0 for name in FALSE if name != kind)


def test_a_missed_object_by_hand() -> None:
    """One cat is found and one is not: left out, AP is 100. A crowd is not missed, and what lies in it is not false."""
    truth = [record(3, A), record(3, B), record(3, [0, 50, 100, 100], crowd=1)]
    found = [record(*FOUND), record(3, [10, 60, 20, 20], 0.9)]
    shares = error_shares(match(truth, found, CATEGORIES, [1], "bbox"))
    assert pytest.approx(100 * 51 / 101) == shares.AP50
    assert shares.counts["Miss"] == 1
    assert shares.gains["Miss"] == shares.gains["FalseNeg"] == pytest.approx(100 * 50 / 101)
    assert shares.gains["FalsePos"] == 0


def test_nothing_at_all() -> None:
    shares = error_shares(match([], [], CATEGORIES, [1], "bbox"))
    assert shares.AP50 == 0
    assert set(shares.gains.values()) == set(shares.counts.values()) == {0}
    assert list(shares.gains) == list(MEANINGS)


def check(case: Any, max_dets: int, expected: tuple[float, ...]) -> Any:
    shares = error_shares(match(*case[:5], max_dets=max_dets))
    assert (shares.AP50, *shares.gains.values()) == pytest.approx(expected, abs=1e-9)
    return shares


@pytest.fixture(autouse=True)
def _own_style() -> Iterator[None]:
    """Keep tidecv, which sets matplotlib's style, from changing the pictures of other tests."""
    with matplotlib.rc_context():
        yield


def tide(case: Any, max_dets: int) -> tuple[tuple[float, ...], dict[str, int]]:
    """Return tidecv's AP and gains, and how often each error is."""
    tidecv = pytest.importorskip("tidecv", reason="tidecv, of the extra `dev`, is not installed")
    truth, found = tidecv.Data("truth", max_dets), tidecv.Data("found", max_dets)
    for id in case.image_ids:
        truth.add_image(id, str(id))
    for side, records in ((truth, case.truth), (found, case.found)):
        for r in records:
            shape = {"box": r.get("bbox"), "mask": r.get("segmentation")}
            add = side.add_ignore_region if r["iscrowd"] else side.add_ground_truth
            if side is found:
                side.add_detection(r["image_id"], r["category_id"], r["score"], **shape)
            else:
                add(r["image_id"], r["category_id"], **shape)
    whole = tidecv.TIDE()
    run = whole.evaluate(truth, found, mode=tidecv.TIDE.BOX if case.kind == "bbox" else tidecv.TIDE.MASK)
    errors = whole.get_all_errors()
    gains = {**errors["main"]["found"], **errors["special"]["found"]}
    counts = {kind.short_name: len(each) for kind, each in run.error_dict.items()}
    return (run.ap, *(gains[name] for name in MEANINGS)), counts


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_random_cases_equal_tidecv(detection_case: AllCases, kind: str) -> None:
    """Crowds, equal scores and overlaps, objects without area, more detections than count."""
    total = dict.fromkeys((*FALSE, "Miss"), 0)
    for seed in range(15):
        case = detection_case(seed, kind)
        max_dets = 4 if seed % 3 == 0 else 100
        expected, counts = tide(case, max_dets)
        assert check(case, max_dets, expected).counts == counts
        total = {name: number + counts[name] for name, number in total.items()}
    assert min(total.values()) > 5


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_real_objects_equal_tidecv(real_case: AllCases, kind: str) -> None:
    case = real_case(0, kind, 0.1)
    expected, counts = tide(case, 100)
    assert check(case, 100, expected).counts == counts
    assert min(counts.values()) > 0
