"""Anchors: boxes of fixed shapes at every cell of every level."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def cell_anchors(size: float, scales: Sequence[float], aspect_ratios: Sequence[float]) -> Tensor:
    """Return the anchors around the origin (ratios x scales, 4), for an object of `size` pixels at scale 1.

    Ratios are height / width. Corners are rounded to whole pixels, as public weights were trained with.
    """
    heights = torch.tensor(aspect_ratios).sqrt()
    sides = torch.tensor(scales) * size
    half_height = (heights[:, None] * sides).flatten() / 2
    half_width = (1 / heights[:, None] * sides).flatten() / 2
    return torch.stack([-half_width, -half_height, half_width, half_height], dim=1).round()


class Anchors(nn.Module):
    """The anchors of a pyramid: at each cell `scales` times the level's stride, in each of the aspect ratios."""

    def __init__(self, strides: Sequence[int], scales: Sequence[float], aspect_ratios: Sequence[float]) -> None:
        super().__init__()
        self.per_cell = len(scales) * len(aspect_ratios)
        cells = torch.stack([cell_anchors(stride, scales, aspect_ratios) for stride in strides])
        self.cells: Tensor  # (L, per_cell, 4)
        self.register_buffer("cells", cells, persistent=False)

    def forward(self, shapes: Sequence[tuple[int, int]], image: tuple[int, int]) -> Tensor:
        """Return all anchors (sum of H x W x per_cell, 4) for maps of these shapes (H, W) of a batch of images (H, W).

        Levels one after the other, each by row, column, anchor.
        """
        return torch.cat([self._level(cells, shape, image) for cells, shape in zip(self.cells, shapes, strict=True)])

    def _level(self, cells: Tensor, shape: tuple[int, int], image: tuple[int, int]) -> Tensor:
        # Whole numbers of pixels from the sizes at hand, 61 instead of 64 where 800 pixels make 13 cells: the grid
        # that torchvision's public weights were trained on.
        y, x = (
            torch.arange(cells_along, device=cells.device, dtype=cells.dtype) * (side // cells_along)
            for cells_along, side in zip(shape, image, strict=True)
        )
        y, x = torch.meshgrid(y, x, indexing="ij")
        return (torch.stack([x, y, x, y], dim=-1)[:, :, None] + cells).reshape(-1, 4)
