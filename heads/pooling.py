"""RoIAlign over a whole pyramid and a whole batch at once, as one sparse matrix product."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import log2

import torch
import torch.nn.functional as F
from torch import Tensor

# Points along each side of a bin.
POINTS = 2


@dataclass(frozen=True)
class Cells:
    """The cells of all levels of a batch of N images as rows of one table, made once for all that is taken from it.

    table: (cells of all, C), level after level, in each by image, row and column. shapes: (H, W) of each level.
    """

    table: Tensor
    shapes: tuple[tuple[int, int], ...]
    images: int

    @classmethod
    def of(cls, levels: Sequence[Tensor]) -> Cells:
        """Return the cells of levels (N, C, H, W)."""
        images, channels = levels[0].shape[:2]
        table = torch.cat([x.permute(0, 2, 3, 1).reshape(-1, channels) for x in levels])
        return cls(table, tuple((x.shape[-2], x.shape[-1]) for x in levels), images)

    def first(self, level: Tensor, image: Tensor) -> Tensor:
        """Return the rows of the table at which images begin in levels; both are numbers of the same shape."""
        count = torch.tensor([height * width for height, width in self.shapes])
        count = count.to(level.device, non_blocking=True)
        return ((count.cumsum(0) - count) * self.images)[level] + image * count[level]

    def sides(self, level: Tensor) -> tuple[Tensor, Tensor]:
        """Return the heights and widths of levels."""
        height, width = torch.tensor(self.shapes).to(level.device, non_blocking=True)[level].unbind(-1)
        return height, width


@dataclass(frozen=True)
class RoIAlign:
    """Pools boxes (N, P, 4), in pixels, to (N x P, C, size, size) from the levels that suit their areas.

    strides: of the levels, falling in resolution. A box as large as a square of `canonical_size` is pooled from the
    level of stride 16, one of half its side from stride 8 and so on (arXiv:1612.03144, equation 1). Values are those of
    torchvision's RoIAlign with two points a side and `aligned=False` (arXiv:1703.06870, section 3).

    Each bin is a weighted sum of the 16 cells around its four points, whichever level and image they are of; so all
    bins are one sparse matrix times the table of all cells, which `embedding_bag` computes, forward and backward,
    on all cores and without a question to the device.
    """

    strides: tuple[int, ...]
    size: int
    canonical_size: float = 224

    def __call__(self, cells: Cells, boxes: Tensor) -> Tensor:
        images, count = boxes.shape[:2]
        level = self._levels(boxes)  # (N, P)
        height, width = cells.sides(level)
        strides = torch.tensor(self.strides, dtype=boxes.dtype).to(boxes.device, non_blocking=True)
        x1, y1, x2, y2 = (boxes / strides[level][..., None]).unbind(-1)
        rows, row_weights = self._along(y1, y2, height)  # (N, P, size, 4)
        columns, column_weights = self._along(x1, x2, width)
        image = torch.arange(images, device=boxes.device)[:, None]
        origin = cells.first(level, image)[..., None, None]
        index = (origin + rows * width[..., None, None])[:, :, :, None, :, None] + columns[:, :, None, :, None, :]
        weights = row_weights[:, :, :, None, :, None] * column_weights[:, :, None, :, None, :]
        pooled = F.embedding_bag(
            index.reshape(-1, (2 * POINTS) ** 2),
            cells.table,
            per_sample_weights=weights.reshape(-1, (2 * POINTS) ** 2).to(cells.table.dtype),
            mode="sum",
        )
        return pooled.view(images * count, self.size, self.size, cells.table.shape[1]).permute(0, 3, 1, 2)

    def _levels(self, boxes: Tensor) -> Tensor:
        sides = ((boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])).sqrt()
        # The small number is torchvision's: a box of exactly the canonical size is of the upper level.
        wanted = torch.floor(log2(16) + torch.log2(sides / self.canonical_size) + 1e-6)
        level = torch.zeros_like(wanted, dtype=torch.long)
        for stride in self.strides[1:]:
            level += wanted >= log2(stride)
        return level

    def _along(self, start: Tensor, end: Tensor, cells: Tensor) -> tuple[Tensor, Tensor]:
        """Return the cells (N, P, size, 4) that the points of each bin lie between, along one axis, and their weights.

        start, end: (N, P), in cells. cells: (N, P), how many there are.
        """
        start, end, cells = start[..., None, None], end[..., None, None], cells[..., None, None]
        points = (torch.arange(self.size * POINTS, device=start.device).view(self.size, POINTS) + 0.5) / POINTS
        place = start + points * ((end - start).clamp(min=1.0) / self.size)  # (N, P, size, POINTS)
        inside = (place >= -1) & (place <= cells)
        last = cells - 1
        place = torch.minimum(place.clamp(min=0), last.to(place.dtype))
        low = place.long()  # floor, as nothing is negative
        share = place - low
        weights = torch.stack([1 - share, share], dim=-1) * (inside / POINTS)[..., None]
        return torch.stack([low, torch.minimum(low + 1, last)], dim=-1).flatten(-2), weights.flatten(-2)
