"""The order of training: counts in a pass from the papers' formulas, and batches of one shape."""

import json
import math
import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vertebra
from vertebra.tools.data.coco import CocoSet, read_coco
from vertebra.tools.data.sampling import Order, Presence, Sampling, make_order
from vertebra.tools.data.sets import Category, ImageSet


@pytest.fixture
def skewed(tmp_path: Path) -> CocoSet:
    """Twelve images: class 1 is in images 1 to 10, class 2 in image 10 alone, the last two have none; one is tall."""
    images = [{"id": i, "file_name": f"{i}.png", "height": 30 if i == 4 else 20, "width": 25} for i in range(1, 13)]
    (tmp_path / "images").mkdir()
    for image in images:
        (tmp_path / "images" / image["file_name"]).touch()
    pairs = [(i, 1) for i in range(1, 11)] + [(10, 2), (10, 2)]
    annotations = [
        {"id": n, "image_id": image, "category_id": kind, "bbox": [1, 2, 3, 4]}
        for n, (image, kind) in enumerate(pairs, start=1)
    ]
    categories = [{"id": 1, "name": "often"}, {"id": 2, "name": "rare"}]
    document = {"images": images, "annotations": annotations, "categories": categories}
    (tmp_path / "file.json").write_text(json.dumps(document))
    return read_coco(tmp_path / "file.json", tmp_path / "images")


def counted(order: Order, passes: int) -> Counter[int]:
    return Counter(order[position] for position in range(passes * order.length))


def test_each_pass_shows_every_image_once() -> None:
    """And the order is that of numpy's permutation for the seed and the number of the pass."""
    order = Order(50, seed=3)
    for number in (0, 1, 7):
        found = [order[number * 50 + i] for i in range(50)]
        assert found == np.random.default_rng([3, number]).permutation(50).tolist()


def test_repeat_factors_of_the_paper(skewed: CocoSet) -> None:
    """arXiv:1908.03195: max(1, sqrt(t / f)), of the image its largest; with t = 0.5, f = 1/12 for the rare class."""
    order = make_order(skewed, Sampling("repeat_factor", threshold=0.5), seed=0, batch_size=2)
    factor = math.sqrt(0.5 * 12)
    assert order.length == math.ceil(11 + factor)
    for number in range(5):
        one = Counter(order[number * order.length + i] for i in range(order.length))
        assert all(one[image] in (1, 2) for image in set(range(12)) - {9})
        assert one[9] in (2, 3)
    found = counted(order, 200)
    assert found[9] / 200 == pytest.approx(factor * order.length / (11 + factor), rel=0.02)


def test_class_balance(skewed: CocoSet) -> None:
    """Three kinds, the images without objects one of them, get four of twelve places each."""
    order = make_order(skewed, Sampling("class_balanced"), seed=0, batch_size=2)
    assert order.length == 12
    found = counted(order, 300)
    # Image 9 has both classes: 1 of the rare class, and 1/10 of the other.
    assert found[9] / 300 == pytest.approx(4 * 1.1, rel=0.03)
    assert (found[10] + found[11]) / 300 == pytest.approx(4, rel=0.03)
    assert found[0] / 300 == pytest.approx(0.4, rel=0.15)


def test_batches_of_one_shape() -> None:
    wide = np.arange(103) % 4 > 0
    order = Order(103, seed=0, wide=wide, batch_size=8)
    assert order.length == 104
    mixed = 0
    for batch in range(26):
        kinds = {bool(wide[order[batch * 8 + i]]) for i in range(8)}
        mixed += len(kinds) > 1
    assert mixed <= 2  # one in each of two passes
    one = Counter(order[i] for i in range(104))
    assert set(one) == set(range(103))
    assert sorted(one.values()) == [1] * 102 + [2]


def test_shapes_are_those_that_the_file_records(skewed: CocoSet) -> None:
    order = make_order(skewed, Sampling(group_shapes=True), seed=0, batch_size=2)
    assert order.wide is not None
    assert np.flatnonzero(~order.wide).tolist() == [3]


def test_positions_alone_decide(skewed: CocoSet) -> None:
    """Asked in any order, in any process."""
    settings = Sampling("repeat_factor", threshold=0.5, group_shapes=True)
    order = make_order(skewed, settings, seed=5, batch_size=4)
    straight = [order[i] for i in range(90)]
    sent = pickle.loads(pickle.dumps(order))
    assert [sent[i] for i in reversed(range(90))] == straight[::-1]
    assert [make_order(skewed, settings, seed=6, batch_size=4)[i] for i in range(90)] != straight


def test_presence_counts_an_image_once_for_a_class() -> None:
    presence = Presence(3, np.array([0, 1, 1]), np.array([1, 1, 3]))
    assert presence.frequency().tolist() == [0, 2, 0, 1]


class Unlabelled:
    id, path = 1, Path("a.png")

    def targets(self, keys: Any) -> dict[str, Any]:
        raise vertebra.InputError("only pixels")


def test_what_a_set_cannot_be_sampled_by(skewed: CocoSet) -> None:
    pixels: Any = ImageSet(Path("labels"), (Category(0, "a"),), (Unlabelled(),))  # type: ignore[arg-type]
    with pytest.raises(vertebra.InputError, match="labels gives with each pixel only; use shuffle"):
        make_order(pixels, Sampling("class_balanced"), seed=0, batch_size=1)
    with pytest.raises(vertebra.InputError, match="labels does not; set it to false"):
        make_order(pixels, Sampling(group_shapes=True), seed=0, batch_size=1)
    with pytest.raises(vertebra.InputError, match=r"unknown data\.sampling\.order 'shufle'\. Did you mean 'shuffle'"):
        make_order(skewed, Sampling("shufle"), seed=0, batch_size=1)
    with pytest.raises(vertebra.InputError, match="a share of the images, above 0 up to 1"):
        make_order(skewed, Sampling("repeat_factor", threshold=0), seed=0, batch_size=1)
