"""Random numbers that are a function of a seed and a place: alike on each device, in any batch and in any process.

Torch's generators give other numbers on a GPU than on a CPU, and to an image other ones in each batch.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Keys are below this; so many places can be told apart. Twice as large is still an int64.
HIGHEST, PLACES = 2**62, 2**30

_LOW = 2**32 - 1


def draw_seeds(count: int, device: torch.device) -> Tensor:
    """Return seeds (count,) from torch's generator, that of the host, so that nothing waits for the device."""
    return torch.randint(_LOW, (count,)).to(device, non_blocking=True)


def random_keys(seeds: Tensor, places: Tensor, purpose: int) -> Tensor:
    """Return a key in 0..HIGHEST-1 for each place (P,) of each image, (N, P) int64; no two of an image are alike.

    seeds: (N,) int64. places: (P,) int64, 0..PLACES-1, no two alike. purpose: another number gives other keys.
    """
    state = _mixed((seeds & _LOW) ^ _mixed(seeds >> 32 & _LOW))
    state = _mixed(state + purpose & _LOW)
    # Steps of the golden ratio take neighbours far apart.
    random = _mixed(state[:, None] + places * 0x9E3779B9 & _LOW)
    # The place below the random bits, so that there are no ties, which each device would break in its own way.
    return random.mul_(PLACES).add_(places)


def _mixed(x: Tensor) -> Tensor:
    """Return 32 bits of which each depends on all 32 of x: a multiplicative hash, in int64 without an overflow."""
    for _ in range(2):
        x = (x ^ (x >> 16)).mul_(0x45D9F3B).bitwise_and_(_LOW)
    return x ^ (x >> 16)
