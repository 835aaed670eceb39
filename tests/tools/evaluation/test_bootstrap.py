"""The interval over images, by hand and by how often it holds what it should."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from vertebra.tools.evaluation.bootstrap import Interval, around, draws, interval


@dataclass(frozen=True)
class Mean:
    """The mean quality as a metric: its standard error is known."""

    quality: Any
    metric: str = "test/mean"

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(f"{row}.jpg" for row in range(len(self.quality)))

    def value(self, counts: Any) -> float:
        known = ~np.isnan(self.quality)
        weight = counts[known].sum()
        return float((counts * self.quality)[known].sum() / weight) if weight else float("nan")


def test_two_images_by_hand() -> None:
    """Both images are drawn with probability 1/2, either alone with 1/4: the deviation is 0.1 / sqrt(2)."""
    found = interval(Mean(np.array([0.4, 0.6])), repeats=5000)
    assert found.value == pytest.approx(0.5)
    assert found.low == pytest.approx(0.5 - 1.96 * 0.1 / np.sqrt(2), abs=0.005)
    assert found.high == pytest.approx(0.5 + 1.96 * 0.1 / np.sqrt(2), abs=0.005)


def test_around_by_hand() -> None:
    """1, 2 and 3 have a deviation of 1, whatever lies beside them that cannot be measured."""
    assert around(5.0, [1.0, float("nan"), 3.0, 2.0]) == Interval(5.0, pytest.approx(3.04), pytest.approx(6.96))


def test_it_ends_where_a_metric_does() -> None:
    found = interval(Mean(np.array([1.0, 0.0])))
    assert (found.low, found.value, found.high) == (0, 0.5, 1)


def test_one_image_has_no_width() -> None:
    assert interval(Mean(np.array([0.3]))) == Interval(pytest.approx(0.3), pytest.approx(0.3), pytest.approx(0.3))


@pytest.mark.parametrize("quality", [[], [float("nan"), float("nan")]])
def test_nothing_to_measure(quality: list[float]) -> None:
    found = interval(Mean(np.array(quality)))
    assert np.isnan([found.value, found.low, found.high]).all()


def test_as_many_images_as_there_are_are_drawn_and_the_seed_decides_which() -> None:
    first, again, other = (np.stack(list(draws(30, 50, seed))) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    assert (first.sum(axis=1) == 30).all()
    assert first.mean(axis=0) == pytest.approx(np.ones(30), abs=0.6)


def test_it_holds_the_true_value_in_95_of_100_cases() -> None:
    """Samples of 100 images of a known mean: 400 intervals hold it so often that chance explains the rest."""
    rng = np.random.default_rng(0)
    found = [interval(Mean(rng.beta(2, 5, 100)), repeats=100, seed=seed) for seed in range(400)]
    covered = np.mean([each.low <= 2 / 7 <= each.high for each in found])
    assert 0.95 - 3 * np.sqrt(0.95 * 0.05 / 400) < covered < 0.95 + 3 * np.sqrt(0.95 * 0.05 / 400)
