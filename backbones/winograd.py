"""3x3 convolutions of stride 1 with four times fewer multiplications: Winograd's F(4x4, 3x3), in tensor operations.

arXiv:1509.09308, section 4.3: 4x4 outputs need 6x6 inputs; both sides of the product are transformed, after which it is
36 matrix products over the channels. Libraries for CPUs lack it (oneDNN has it for none), and matrix products are what
they do best. Maps are (N, H, W, C) here, channels innermost, and padded by one pixel of zeros on each side.

In float32 results differ from a direct convolution's by about 1e-5 of the largest; see arXiv:1803.10986 for why.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

# Rows and columns of an output tile, and of the input tile that it comes from.
OUT, IN = 4, 6

# Tiles that are worked on together: few enough that what they become stays in a processor's cache.
AT_ONCE = 320


def _twice(rows: list[list[float]]) -> Tensor:
    """Return the matrix that does to a flattened tile what `rows` does along both of its axes."""
    matrix = torch.tensor(rows, dtype=torch.float64)
    return torch.kron(matrix, matrix)


# B^T, G and A^T of arXiv:1509.09308, equation 17.
_INPUT = _twice(
    [
        [4, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ]
)  # (36, 36)
_WEIGHT = _twice(
    [
        [1 / 4, 0, 0],
        [-1 / 6, -1 / 6, -1 / 6],
        [-1 / 6, 1 / 6, -1 / 6],
        [1 / 24, 1 / 12, 1 / 6],
        [1 / 24, -1 / 12, 1 / 6],
        [0, 0, 1],
    ]
)  # (36, 9)
_OUTPUT = _twice([[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]])  # (16, 36)


def transform(weight: Tensor) -> Tensor:
    """Return what `convolve` takes of a weight (K, C, 3, 3): (36, K, C)."""
    count, channels = weight.shape[:2]
    taps = weight.permute(2, 3, 0, 1).reshape(9, count * channels)
    return (_WEIGHT.to(weight) @ taps).view(IN * IN, count, channels)


def transform_of_gradient(weight: Tensor) -> Tensor:
    """Return what `convolve` takes to make the gradient of the input from that of the output: (36, C, K)."""
    return transform(weight.flip(2, 3)).transpose(1, 2)


# An operator, as a compiler would unroll its loop into a graph of its own for each size.
@torch.library.custom_op("vertebra::winograd", mutates_args=())
def convolve(x: Tensor, transformed: Tensor, bias: Tensor | None) -> Tensor:
    """Return the convolution (N, H, W, K) of x (N, H, W, C) with a transformed weight (36, K, C)."""
    channels, count = x.shape[3], transformed.shape[1]
    rows, columns = _tiles(x)
    whole = x.new_empty(len(x), rows * OUT, columns * OUT, count)
    into, out_of = _INPUT.to(x), _OUTPUT.to(x)
    offset = x.new_zeros(count) if bias is None else bias
    # The same memory for each block, which stays in the cache.
    window, gathered, values = _Scratch(x), _Scratch(x), _Scratch(x)
    for block in _blocks(x):
        seen = block.inputs(x, window)
        inputs = gathered(*seen.shape).copy_(seen).view(IN * IN, -1)
        moved = torch.mm(into, inputs, out=values(*inputs.shape)).view(IN * IN, block.tiles, channels)
        products = torch.bmm(moved, transformed.transpose(1, 2), out=gathered(IN * IN, block.tiles, count))
        found = torch.mm(out_of, products.view(IN * IN, -1), out=values(OUT * OUT, block.tiles * count))
        torch.add(found.view(OUT, OUT, *block.shape, count), offset, out=block.outputs(whole))
    if whole.shape[1:3] == x.shape[1:3]:
        return whole
    return whole[:, : x.shape[1], : x.shape[2]].clone()  # a view could not be changed in place by what follows


@convolve.register_fake
def _(x: Tensor, transformed: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty(*x.shape[:3], transformed.shape[1])


@torch.library.custom_op("vertebra::winograd_weight_gradient", mutates_args=())
def weight_gradient(x: Tensor, gradient: Tensor) -> Tensor:
    """Return the gradient (K, C, 3, 3) of the weight, from x (N, H, W, C) and the gradient (N, H, W, K) of the output.

    What `convolve` computes is linear in the transformed weight; this is its adjoint, by the same tiles.
    """
    channels, count = x.shape[3], gradient.shape[3]
    into, back = _INPUT.to(x), _OUTPUT.t().to(x)
    total = x.new_zeros(IN * IN, channels, count)
    window, gathered, values, wanted = (_Scratch(x) for _ in range(4))
    for block in _blocks(x):
        seen = block.inputs(x, window)
        inputs = gathered(*seen.shape).copy_(seen).view(IN * IN, -1)
        moved = torch.mm(into, inputs, out=values(*inputs.shape)).view(IN * IN, block.tiles, channels)
        seen = block.gradients(gradient, window)
        outputs = gathered(*seen.shape).copy_(seen).view(OUT * OUT, -1)
        of_outputs = torch.mm(back, outputs, out=wanted(IN * IN, block.tiles * count))
        total.baddbmm_(moved.transpose(1, 2), of_outputs.view(IN * IN, block.tiles, count))
    taps = _WEIGHT.t().to(x) @ total.view(IN * IN, -1)
    return taps.view(3, 3, channels, count).permute(3, 2, 0, 1)


@weight_gradient.register_fake
def _(x: Tensor, gradient: Tensor) -> Tensor:
    return x.new_empty(3, 3, x.shape[3], gradient.shape[3]).permute(3, 2, 0, 1)


class _Scratch:
    """Memory for tensors of which one is used at a time; it grows with the largest."""

    def __init__(self, like: Tensor) -> None:
        self.flat = like.new_empty(0)

    def __call__(self, *shape: int) -> Tensor:
        size = prod(shape)
        if size > len(self.flat):
            self.flat = self.flat.new_empty(size)
        return self.flat[:size].view(shape)


def _tiles(x: Tensor) -> tuple[int, int]:
    """Return how many tiles maps (N, H, W, C) have in rows and columns; the last may reach past the border."""
    return -(-x.shape[1] // OUT), -(-x.shape[2] // OUT)


def _blocks(x: Tensor) -> Iterator[_Block]:
    """Yield all tiles of maps (N, H, W, C), some rows of an image at a time, or some small images."""
    all_rows, columns = _tiles(x)
    images = max(1, AT_ONCE // (all_rows * columns))
    rows = all_rows if images > 1 else max(1, AT_ONCE // columns)
    for image in range(0, len(x), images):
        for row in range(0, all_rows, rows):
            yield _Block(slice(image, min(image + images, len(x))), slice(row, min(row + rows, all_rows)), columns)


@dataclass(frozen=True)
class _Block:
    """All tiles of some images in some rows of tiles."""

    images: slice
    rows: slice
    columns: int

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.images.stop - self.images.start, self.rows.stop - self.rows.start, self.columns

    @property
    def tiles(self) -> int:
        return prod(self.shape)

    def inputs(self, x: Tensor, scratch: _Scratch) -> Tensor:
        """Return the overlapping input tiles (6, 6, images, rows, columns, C), with zeros past the border."""
        ring = IN - OUT
        whole = self._window(x, scratch, before=ring // 2, more=ring)
        first, row, column, channel = whole.stride()
        return whole.as_strided(
            (IN, IN, *self.shape, x.shape[3]), (row, column, first, OUT * row, OUT * column, channel)
        )

    def gradients(self, gradient: Tensor, scratch: _Scratch) -> Tensor:
        """Return the output tiles (4, 4, images, rows, columns, K), with zeros past the border."""
        return self._in_tiles(self._window(gradient, scratch, before=0, more=0))

    def outputs(self, whole: Tensor) -> Tensor:
        """Return the output tiles (4, 4, images, rows, columns, K) of maps of whole tiles, as a view."""
        return self._in_tiles(whole[self.images, self.rows.start * OUT : self.rows.stop * OUT])

    def _in_tiles(self, maps: Tensor) -> Tensor:
        images, rows, columns = self.shape
        return maps.view(images, rows, OUT, columns, OUT, maps.shape[3]).permute(2, 4, 0, 1, 3, 5)

    def _window(self, x: Tensor, scratch: _Scratch, *, before: int, more: int) -> Tensor:
        """Return what is under the tiles, from so many pixels `before` them, and so many `more` than they have."""
        images, rows, columns = self.shape
        top = self.rows.start * OUT - before
        height, width = rows * OUT + more, columns * OUT + more
        whole = scratch(images, height, width, x.shape[3])
        first, last = max(-top, 0), min(x.shape[1] - top, height)  # rows inside of the maps, and columns
        left, right = before, min(x.shape[2] + before, width)
        whole[:, first:last, left:right] = x[self.images, top + first : top + last, : right - before]
        for beyond in (whole[:, :first], whole[:, last:], whole[:, :, :left], whole[:, :, right:]):
            beyond.zero_()
        return whole
