"""A trained run as a function from images to what is found in them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, overload

import numpy as np
import torch
from torch import Tensor

from ..backbones import InputError
from .batches import batches, in_order
from .build import pick_device
from .data.masks import decode
from .data.sets import Array
from .found_pictures import PICTURES
from .given_images import as_tensor
from .predictions import ranked
from .run import chosen_checkpoint, open_run, trained_model
from .sources import files_of

if TYPE_CHECKING:
    from .given_images import Given

Item = TypeVar("Item")

# What is not for models of a kind, by the first of their target keys, and why.
NOT_FOR: dict[str, dict[str, str]] = {
    "boxes": {},
    "semantic": {
        "score": "is for detections; a segmenter gives each pixel its likeliest class",
        "top": "ranks the classes of an image; a segmenter gives each pixel its likeliest class",
    },
    "label": {"score": "is for detections; a classifier gives the likeliest classes, as many as top says"},
}


class Predictor:
    """Finds in images what the model of a run finds.

    Call it with a path, an array (height, width, 3), uint8 or float in [0, 1], a tensor (3, height, width) of the same,
    an image of Pillow, or a list of these; with other channels or 16 bits where the run's `data.channels` says so.
    Channels are red, green, blue: of an image that OpenCV read give `image[..., ::-1]`. Files and images of Pillow are
    turned as their EXIF data says. `categories` are those of the training data, in the order of the labels.

    The weights are those of the newest checkpoint, of `checkpoint`, a file, or with `best` of that with the best metric
    in training; the moving average of them where the run has one, but with `raw` those of the step itself.

    What it returns, or of a list a list, is on the CPU; `size` is the image's (height, width):

    - of a detector `boxes` (N, 4) xyxy in pixels, `labels` (N,) from 1, `scores` (N,), best first, and `names`, a list;
      of one with masks also `masks`, a list of COCO RLE, of which `masks` of the predictor makes arrays;
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
        self.channels = opened.config.data.channels or 3
        self.device = pick_device(device)
        path = chosen_checkpoint(opened, None if checkpoint is None else Path(checkpoint), best)
        model, self.categories = trained_model(opened, path, raw)
        self.model: Any = model.to(self.device)

    @property
    def kind(self) -> str:
        """The first of the model's target keys, which says what it finds."""
        return str(self.model.target_keys[0])

    @overload
    def __call__(self, image: Given, *, score: float | None = None, top: int | None = None) -> dict[str, Any]: ...

    @overload
    def __call__(
        self, image: list[Any] | tuple[Any, ...], *, score: float | None = None, top: int | None = None
    ) -> list[dict[str, Any]]: ...

    def __call__(
        self, image: Given | list[Any] | tuple[Any, ...], *, score: float | None = None, top: int | None = None
    ) -> dict[str, Any] | list[dict[str, Any]]:
        """Return what is found in an image, or in each of a list.

        Those of a list that are of one size go through the model together, with results that differ from one at a time
        in the last digits: give no more than fit into its memory.

        score: leave out detections with a lower one. top: at most so many detections; of a classifier, add `top`, a
        list of so many classes as (name, score), best first.
        """
        refuse(self.kind, {"score": score, "top": top})
        given = list(image) if isinstance(image, (list, tuple)) else [image]
        if not given:
            raise InputError("an empty list of images came; give one image or more")
        tensors = [as_tensor(each, self.files, self.channels) for each in given]
        found = []
        for _, one in self.over(tensors, lambda tensor: tensor, len(tensors)):
            if isinstance(one, InputError):
                raise one
            found.append(self._chosen(one, score, top))
        return found if isinstance(image, (list, tuple)) else found[0]

    def over(
        self, items: Iterable[Item], image_of: Callable[[Item], Tensor], most: int
    ) -> Iterator[tuple[Item, dict[str, Any] | InputError]]:
        """Yield each item with what is found in its image (C, H, W), in order, up to `most` of one size at a time.

        Instead of that there is an InputError if the model does not take images of that size.
        """

        def found() -> Iterator[tuple[int, tuple[Item, dict[str, Any] | InputError]]]:
            sized = ((number, item, image_of(item)) for number, item in enumerate(items))
            for batch in batches(sized, lambda each: each[2].shape, most):
                outputs: Sequence[dict[str, Any] | InputError]
                try:
                    outputs = self._of_one_size([*map(itemgetter(2), batch)])
                except InputError as error:
                    outputs = [error] * len(batch)
                for (number, item, _), output in zip(batch, outputs, strict=True):
                    yield number, (item, output)

        return in_order(found())

    def draw(self, image: Given, found: Mapping[str, Any]) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """Return a picture (height, width, 3), uint8 RGB, of an image with what was found in it.

        Small images are enlarged, as texts would cover them.
        """
        pixels = as_tensor(image, self.files, self.channels)
        if tuple(pixels.shape[-2:]) != tuple(found["size"]):
            (height, width), (found_height, found_width) = pixels.shape[-2:], found["size"]
            raise InputError(
                f"an image of {width}x{height} came with what was found in one of {found_width}x{found_height}; give "
                "the image that it was found in"
            )
        drawn = PICTURES[self.kind](pixels.cpu(), found, self.categories)
        return np.ascontiguousarray(drawn.permute(1, 2, 0).numpy())

    def masks(self, found: Mapping[str, Any]) -> Array:
        """Return the masks of what was found in an image as an array (N, height, width), bool."""
        if "masks" not in found:
            raise InputError("this model finds no masks of objects; mask_rcnn is a head that does")
        return decode(found["masks"], *found["size"]).astype(bool)

    @torch.inference_mode()
    def _of_one_size(self, images: Sequence[Tensor]) -> list[dict[str, Any]]:
        """Return what is found in images (C, H, W) of one size, which go through the model together."""
        height, width = images[0].shape[-2:]
        try:
            outputs = self.model([image.to(self.device) for image in images])
        except (RuntimeError, MemoryError) as error:
            exhausted = isinstance(error, (torch.OutOfMemoryError, MemoryError))
            if not exhausted and "can't allocate memory" not in str(error):
                raise
            raise InputError(
                f"there is no memory for {len(images)} images of {width}x{height} at once; give fewer (--batch-size), "
                "or smaller ones"
            ) from error
        return [{**self._named(output), "size": (height, width)} for output in outputs]

    def _named(self, output: Mapping[str, Any]) -> dict[str, Any]:
        found = {key: value.cpu() if isinstance(value, Tensor) else value for key, value in output.items()}
        names = [category.name for category in self.categories]
        if "labels" in found:
            found["names"] = [names[label - 1] for label in found["labels"].tolist()]
        if "label" in found:
            found["name"] = names[int(found["label"])]
        return found

    def _chosen(self, found: dict[str, Any], score: float | None, top: int | None) -> dict[str, Any]:
        if self.kind == "boxes":
            return best(found, score or 0.0, top)
        if top is None:
            return found
        pairs = ranked(found["scores"], top)
        return {**found, "top": [(self.categories[label].name, value) for label, value in pairs]}


def best(found: Mapping[str, Any], score: float, top: int | None) -> dict[str, Any]:
    """Return what was found in an image with no more than the `top` best detections, and none of a lower score."""
    rows = (found["scores"] >= score).nonzero().flatten()[:top]
    kept = {
        key: value[rows] if isinstance(value, Tensor) else [value[row] for row in rows.tolist()]
        for key, value in found.items()
        if key != "size"
    }
    return {**kept, "size": found["size"]}


def refuse(kind: str, values: Mapping[str, float | None], form: str = "{}={:g}") -> None:
    """Refuse a score or top that is not for models of a kind; `form` says how they were given."""
    for name, reason in NOT_FOR[kind].items():
        value = values[name]
        if value is not None:
            raise InputError(f"{form.format(name, value)} {reason}")
    for name, least, most in (("score", 0, 1), ("top", 1, float("inf"))):
        value = values[name]
        if value is not None and not least <= value <= most:
            allowed = "from 0 to 1" if name == "score" else "at least 1"
            raise InputError(f"{form.format(name, value)}; it is {allowed}")
