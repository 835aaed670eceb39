"""Changes of colours."""

from collections.abc import Callable

import numpy as np
import pytest

import vertebra
from vertebra.tools.data.photometric import Colours, as_they_are, distort, jitter

PIXELS = np.random.default_rng(0).integers(40, 200, (20, 30, 3), dtype=np.uint8)


@pytest.mark.parametrize(("made", "share"), [(jitter, 0.8), (distort, 1 - 0.5**4)])
def test_the_seed_decides(made: Callable[[], Colours], share: float) -> None:
    """How often something changes, of the probabilities that the transforms have."""
    colours = made()
    one = [colours(PIXELS, seed) for seed in range(200)]
    other = [colours(PIXELS, seed) for seed in reversed(range(200))]
    assert all(np.array_equal(a, b) for a, b in zip(one, reversed(other), strict=True))
    changed = np.mean([not np.array_equal(each, PIXELS) for each in one])
    assert share - 0.1 < changed < share + 0.1
    assert all(each.shape == PIXELS.shape and each.dtype == np.uint8 for each in one)
    assert np.abs(np.mean(one, axis=0) - PIXELS).mean() < 25  # as often one way as the other


def test_distortions_come_by_themselves() -> None:
    """Grey stays grey whatever is done to saturation and hue, and its mean says what was done to brightness."""
    grey = np.full((8, 8, 3), 100, np.uint8)
    found = np.array([distort()(grey, seed) for seed in range(300)])
    assert (found.max(axis=3) - found.min(axis=3)).max() <= 1
    means = found.mean(axis=(1, 2, 3))
    assert 87 <= means.min() < 92
    assert 108 < means.max() <= 113
    assert 0.4 < np.mean(means == 100) < 0.6  # contrast does nothing to one colour


def test_colours_stay_as_they_are() -> None:
    assert as_they_are()(PIXELS, 0) is PIXELS


@pytest.mark.parametrize("pixels", [PIXELS[..., :1], PIXELS.astype(np.uint16), PIXELS / np.float32(255)])
def test_other_pixels_are_refused(pixels: np.ndarray) -> None:
    with pytest.raises(
        vertebra.InputError, match=r"an image has \d channels of \w+, and changes of colours are for 8-bit"
    ):
        distort()(pixels, 0)
