"""A trained run as a function from an image to its detections."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..backbones import InputError
from .build import pick_device
from .data.images import read_image
from .run import open_run, trained_model


class Predictor:
    """Detects the objects in images with the model of a run.

    Call it with a path, an array (height, width, 3), uint8 RGB, or a tensor (3, height, width), float in [0, 1] or
    uint8. It returns `boxes` (N, 4) xyxy in pixels, `labels` (N,) from 1, `scores` (N,), best first, on the CPU, and
    `names`, a list; a model with masks also gives `masks`, a list of COCO RLE (`pycocotools.mask.decode` makes an array
    of one). Files are turned as their EXIF data says. `categories` are those of the training data, in the order of the
    labels.
    """

    def __init__(
        self,
        run: str | os.PathLike[str],
        *,
        checkpoint: str | os.PathLike[str] | None = None,
        device: str = "auto",
        imports: Sequence[str] = (),
    ) -> None:
        opened = open_run(Path(run), imports=imports)
        self.device = pick_device(device)
        model, self.categories = trained_model(opened, None if checkpoint is None else Path(checkpoint))
        self.model = model.to(self.device)

    @torch.inference_mode()
    def __call__(self, image: str | os.PathLike[str] | np.ndarray[Any, Any] | Tensor) -> dict[str, Any]:
        (output,) = self.model([as_tensor(image).to(self.device)])
        found = {key: value.cpu() if isinstance(value, Tensor) else value for key, value in output.items()}
        return {**found, "names": [self.categories[label - 1].name for label in found["labels"].tolist()]}


def above(found: Mapping[str, Any], score: float) -> dict[str, Any]:
    """Return what was found in an image without the detections of lower scores."""
    keep = found["scores"] >= score
    return {
        key: value[keep] if isinstance(value, Tensor) else list(compress(value, keep.tolist()))
        for key, value in found.items()
    }


def as_tensor(image: str | os.PathLike[str] | np.ndarray[Any, Any] | Tensor) -> Tensor:
    """Return an image as a tensor (3, height, width)."""
    if isinstance(image, Tensor):
        return image
    pixels = image if isinstance(image, np.ndarray) else read_image(Path(image), orient=True)
    if pixels.dtype != np.uint8 or pixels.ndim != 3:
        raise InputError(f"an array of {pixels.dtype} {pixels.shape} came; uint8 RGB (height, width, 3) is expected")
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
