"""A trained run as a function from an image to what is found in it."""

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
from .data.images import RGB, Files
from .run import chosen_checkpoint, open_run, trained_model
from .sources import files_of


class Predictor:
    """Finds in images what the model of a run finds.

    Call it with a path, an array (height, width, 3), uint8 RGB, or a tensor (3, height, width), float in [0, 1] or
    uint8; with other channels or 16 bits where the run's `data.channels` says so. Files are turned as their EXIF data
    says. `categories` are those of the training data, in the order of the labels.

    The weights are those of the newest checkpoint, of `checkpoint`, a file, or with `best` of that with the best metric
    in training; the moving average of them where the run has one, but with `raw` those of the step itself.

    What it returns is on the CPU:

    - of a detector `boxes` (N, 4) xyxy in pixels, `labels` (N,) from 1, `scores` (N,), best first, and `names`, a list;
      of one with masks also `masks`, a list of COCO RLE (`pycocotools.mask.decode` makes an array of one);
    - of a segmenter `semantic` (height, width), the position in `categories` of each pixel's class;
    - of a classifier `label`, the position in `categories` of the likeliest, its `name`, and the `scores` of all.
    """

    def __init__(
        self,
        run: str | os.PathLike[str],
        *,
        checkpoint: str | os.PathLike[str] | None = None,
        best: bool = False,
        raw: bool = False,
        device: str = "auto",
        imports: Sequence[str] = (),
    ) -> None:
        opened = open_run(Path(run), imports=imports)
        self.files = files_of(opened.config.data)
        self.device = pick_device(device)
        path = chosen_checkpoint(opened, None if checkpoint is None else Path(checkpoint), best)
        model, self.categories = trained_model(opened, path, raw)
        self.model: Any = model.to(self.device)

    @torch.inference_mode()
    def __call__(self, image: str | os.PathLike[str] | np.ndarray[Any, Any] | Tensor) -> dict[str, Any]:
        (output,) = self.model([as_tensor(image, self.files).to(self.device)])
        found = {key: value.cpu() if isinstance(value, Tensor) else value for key, value in output.items()}
        names = [category.name for category in self.categories]
        if "labels" in found:
            found["names"] = [names[label - 1] for label in found["labels"].tolist()]
        if "label" in found:
            found["name"] = names[int(found["label"])]
        return found


def above(found: Mapping[str, Any], score: float) -> dict[str, Any]:
    """Return what was found in an image without the detections of lower scores."""
    keep = found["scores"] >= score
    return {
        key: value[keep] if isinstance(value, Tensor) else list(compress(value, keep.tolist()))
        for key, value in found.items()
    }


def as_tensor(image: str | os.PathLike[str] | np.ndarray[Any, Any] | Tensor, files: Files = RGB) -> Tensor:
    """Return an image as a tensor (channels, height, width)."""
    if isinstance(image, Tensor):
        return image
    pixels = image if isinstance(image, np.ndarray) else files.read(Path(image), orient=True)
    if pixels.dtype not in (np.uint8, np.uint16, np.float32) or pixels.ndim != 3:
        raise InputError(
            f"an array of {pixels.dtype} {pixels.shape} came; (height, width, channels) of uint8, uint16, or float32 "
            "from 0 to 1 is expected"
        )
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
