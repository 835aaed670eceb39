"""Keys are the same everywhere, different for each place, and look random: uniform, and independent of neighbours."""

import pytest
import torch

from vertebra.heads.random_keys import HIGHEST, PLACES, draw_seeds, random_keys

PLACES_OF_AN_IMAGE = torch.arange(100_000)


def mixed(x: int) -> int:
    """The same hash in Python's integers, which have no width."""
    for _ in range(2):
        x = ((x ^ (x >> 16)) * 0x45D9F3B) % 2**32
    return x ^ (x >> 16)


@pytest.mark.parametrize("seed", [0, 1, 2**32 - 1, 2**63 - 1])
@pytest.mark.parametrize("place", [0, 1, 268_568, PLACES - 1])
def test_equal_to_unbounded_integers(seed: int, place: int) -> None:
    """So nothing overflows, which each device might answer in its own way."""
    state = mixed((mixed(seed % 2**32 ^ mixed(seed >> 32)) + 2) % 2**32)
    random = mixed((state + place * 0x9E3779B9) % 2**32)
    assert random_keys(torch.tensor([seed]), torch.tensor([place]), 2).item() == random * PLACES + place


def test_no_two_keys_of_an_image_are_alike() -> None:
    (keys,) = random_keys(torch.tensor([7]), PLACES_OF_AN_IMAGE, 1)
    assert len(keys.unique()) == len(keys)
    assert 0 <= int(keys.min()) <= int(keys.max()) < HIGHEST


@pytest.mark.parametrize("other", [(1, 1), (2**40, 1), (0, 2)])
def test_uniform_and_independent_of_other_seeds_and_purposes(other: tuple[int, int]) -> None:
    """Chi-squared of 16 x 16 cells, of neighbours in place and of the other's keys: 255 + 5 x sqrt(2 x 255) at most."""
    seed, purpose = other
    (first,), (second,) = (
        random_keys(torch.tensor([s]), PLACES_OF_AN_IMAGE, p) // (HIGHEST // 16) for s, p in ((0, 1), (seed, purpose))
    )
    for a, b in ((first[:-1], first[1:]), (first, second)):
        counts = torch.bincount(a * 16 + b, minlength=256).double()
        assert ((counts - counts.mean()) ** 2 / counts.mean()).sum() < 255 + 5 * (2 * 255) ** 0.5


def test_seeds_next_to_each_other_have_independent_keys() -> None:
    """The same place of 100,000 images in a row, as that is how a data set numbers them."""
    keys = random_keys(torch.arange(100_000), torch.tensor([5]), 1)[:, 0] // (HIGHEST // 16)
    counts = torch.bincount(keys[:-1] * 16 + keys[1:], minlength=256).double()
    assert ((counts - counts.mean()) ** 2 / counts.mean()).sum() < 255 + 5 * (2 * 255) ** 0.5


def test_seeds_are_drawn_from_torchs_generator() -> None:
    torch.manual_seed(0)
    first = draw_seeds(50, torch.device("cpu"))
    torch.manual_seed(0)
    assert torch.equal(draw_seeds(50, torch.device("cpu")), first)
    assert len(first.unique()) == 50
