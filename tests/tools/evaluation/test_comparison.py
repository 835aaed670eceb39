"""Two evaluations of the same images."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from vertebra.backbones import InputError
from vertebra.tools.evaluation.comparison import compare, comparison_text
from vertebra.tools.evaluation.detection_images import DetectionImages
from vertebra.tools.evaluation.matching import match


@dataclass(frozen=True)
class Mean:
    """The mean quality as a metric."""

    quality: Any
    names: tuple[str, ...] = field(default=("a.jpg", "b.jpg", "c.jpg"))
    metric: str = "test/mean"

    def value(self, counts: Any) -> float:
        return float((counts * np.nan_to_num(self.quality, nan=1)).sum() / counts.sum())


def test_with_itself_the_difference_is_exactly_0() -> None:
    found = compare(Mean(np.array([0.1, 0.2, 0.7])), Mean(np.array([0.1, 0.2, 0.7])))
    assert (found.difference.value, found.difference.low, found.difference.high) == (0, 0, 0)
    assert found.changed == ()
    assert "no image has another quality" in comparison_text(found, ("A", "B"), 3)


def test_both_see_the_same_draws() -> None:
    """Better by the same on each image: the difference does not depend on the draw, as it would on two draws."""
    found = compare(Mean(np.array([0.4, 0.6, 0.9])), Mean(np.array([0.3, 0.5, 0.8])))
    assert found.difference.value == pytest.approx(0.1)
    assert found.difference.low == pytest.approx(0.1)
    assert found.difference.high == pytest.approx(0.1)


def test_the_most_changed_images_come_first() -> None:
    """An image with nothing to score is as good as one without fault."""
    nan = float("nan")
    found = compare(Mean(np.array([0.5, nan, 0.2])), Mean(np.array([0.7, 0.1, 0.2])))
    assert found.changed == (("b.jpg", pytest.approx(nan, nan_ok=True), 0.1), ("a.jpg", 0.5, 0.7))
    lines = comparison_text(found, ("runs/new", "runs/old"), 1).splitlines()
    assert lines[0] == "test/mean: runs/new 0.567, runs/old 0.333"
    assert "the 1 most changed of 2 images" in lines[3]
    assert [line.split()[0] for line in lines[4:6]] == ["image", "b.jpg"]
    assert lines[5].split()[1:] == ["-", "0.1000", "0.9000"]
    assert lines[6] == "a: runs/new; b: runs/old"


def test_what_can_be_said_of_the_difference() -> None:
    low, high = np.linspace(0.1, 0.3, 40), np.linspace(0.5, 0.8, 40)
    names = tuple(f"{row}.jpg" for row in range(40))
    rng = np.random.default_rng(0)

    def said(a: Any, b: Any) -> str:
        return comparison_text(compare(Mean(a, names), Mean(b, names)), ("A", "B"), 2).splitlines()[1]

    assert said(high, low).endswith("A is better than B on images like these")
    assert said(low, high).endswith("B is better than A on images like these")
    assert said(low, rng.permutation(low)).endswith("no difference can be told on these images")


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"names": ("a.jpg", "b.jpg", "d.jpg")}, "2 images are in one of them only, first 'c.jpg'"),
        ({"names": ("b.jpg", "a.jpg", "c.jpg")}, "their order differs; evaluate both on the same data"),
        ({"metric": "segm/AP"}, "test/mean and segm/AP came"),
    ],
)
def test_evaluations_that_cannot_be_compared(other: dict[str, Any], message: str) -> None:
    quality = np.array([0.1, 0.2, 0.3])
    with pytest.raises(InputError, match=message) as error:
        compare(Mean(quality), Mean(quality, **other))
    assert "\n" not in str(error.value)


def test_a_detector_that_is_known_to_be_better(real_case: Callable[..., Any]) -> None:
    """Real objects moved a little and moved far; the same noise but another seed is no difference."""

    def images(seed: int, noise: float) -> DetectionImages:
        case = real_case(seed, "bbox", noise)
        return DetectionImages(case.document, "bbox", match(*case[:5]), [0.5] * len(case.categories))

    good, bad, other = images(0, 0.05), images(1, 0.15), images(2, 0.05)
    better = compare(good, bad, repeats=100)
    assert better.difference.low > 0
    assert better.difference.value == better.a - better.b
    assert len(better.changed) > 40
    same = compare(good, other, repeats=100)
    assert same.difference.low < 0 < same.difference.high
