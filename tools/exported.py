"""An exported file as a model, and as a predictor: from images to what is found in them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..backbones import InputError, Preprocessing
from ..heads.images import Batch, make_batch
from ..heads.masks import to_rle
from .data.channels import Channels
from .data.images import RGB
from .exporting.description import KEY, Description, read_description
from .exporting.files import quiet, require
from .predictor import Predictor

# From inputs by name to outputs by name.
Run = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]


class ExportedModel:
    """The model in an exported file, run by onnxruntime (.onnx) or torch (.pt2), on the CPU.

    Called with a list of images (C, H, W), float in [0, 1] or uint8, it resizes and pads them as the model does, and
    gives what the model gives: for each image a dict, in pixels of that image, with masks as COCO's run lengths.
    """

    def __init__(self, path: Path) -> None:
        self.description, self._run = open_exported(path)
        self.target_keys = self.description.finds
        self._read = READERS[self.target_keys[0]]

    def eval(self) -> ExportedModel:
        """Return the model, which cannot be in another mode."""
        return self

    def __call__(self, images: Sequence[Tensor]) -> list[dict[str, Any]]:
        most = self.description.batch_size or len(images)
        return [found for first in range(0, len(images), most) for found in self._of_some(images[first : first + most])]

    def _of_some(self, images: Sequence[Tensor]) -> Iterator[dict[str, Any]]:
        about = self.description
        # Values are normalised in the file.
        unchanged = Preprocessing((0.0,) * about.channels, (1.0,) * about.channels)
        shapes = about.pad_to if about.size is None else (about.size,)
        batch = make_batch([image.float() if image.is_floating_point() else image for image in images], unchanged,
                           about.resize, shapes)  # fmt: skip
        pixels = self._of_size(batch).contiguous()
        sizes = torch.tensor(batch.sizes)
        if about.batch_size is not None and len(images) < about.batch_size:
            pixels, sizes = (torch.cat([x, x[:1].repeat(about.batch_size - len(images), *[1] * (x.ndim - 1))])
                             for x in (pixels, sizes))  # fmt: skip
        outputs = self._run({"images": pixels, "sizes": sizes})
        for i in range(len(images)):
            yield self._read({name: value[i] for name, value in outputs.items()}, batch, i)

    def _of_size(self, batch: Batch) -> Tensor:
        """Return the pixels of a batch, (N, C, H, W), at a size that the file takes."""
        about, pixels = self.description, batch.images
        if "sizes" not in about.inputs:  # padding would count
            if len(set(batch.sizes)) > 1:
                raise InputError("the images of a batch differ in size, and a classifier needs one: give one at a time")
            pixels = pixels[..., : batch.sizes[0][0], : batch.sizes[0][1]]
        if about.size is not None and tuple(pixels.shape[-2:]) != about.size:
            (height, width), largest = about.size, tuple(max(sides) for sides in zip(*batch.sizes, strict=True))
            raise InputError(
                f"an image is {largest[0]}x{largest[1]} (height x width) once it is resized, and this file takes "
                f"{height}x{width} alone; export with another --size, or without"
            )
        return pixels


class Exported(Predictor):
    """Finds in images what the model in an exported file finds; it is used as `Predictor` is, and needs no run.

    On the CPU; how many threads onnxruntime uses is what `torch.get_num_threads()` says.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.model = ExportedModel(Path(path))
        about = self.model.description
        self.files = RGB if about.channels == 3 else Channels(about.channels)
        self.channels = about.channels
        self.device = torch.device("cpu")
        self.categories = about.named


# --- what each kind of model gives -----------------------------------------------------------------------------------


def _detections(found: Mapping[str, Tensor], batch: Batch, index: int) -> dict[str, Any]:
    valid = found["valid"]
    boxes = batch.to_given(found["boxes"][valid], index)
    detected = {"boxes": boxes, "labels": found["labels"][valid], "scores": found["scores"][valid]}
    if "masks" not in found:
        return detected
    return {**detected, "masks": to_rle(found["masks"][valid], boxes, batch.given_sizes[index])}


def _semantic(found: Mapping[str, Tensor], batch: Batch, index: int) -> dict[str, Any]:
    (height, width), given = batch.sizes[index], batch.given_sizes[index]
    if (height, width) == given:
        return {"semantic": found["semantic"][:height, :width]}
    # As the model does: scores of the padded image, without the padding, at the size of the given one.
    whole = F.interpolate(found["logits"][None], size=tuple(found["semantic"].shape), mode="bilinear")
    scores = F.interpolate(whole[..., :height, :width], size=given, mode="bilinear")
    return {"semantic": scores[0].argmax(dim=0).to(torch.uint8)}


def _label(found: Mapping[str, Tensor], batch: Batch, index: int) -> dict[str, Any]:
    return {"label": found["scores"].argmax(), "scores": found["scores"]}


# By the first of a model's target keys.
READERS: Mapping[str, Callable[[Mapping[str, Tensor], Batch, int], dict[str, Any]]] = {
    "boxes": _detections,
    "semantic": _semantic,
    "label": _label,
}


# --- opening ---------------------------------------------------------------------------------------------------------


def open_exported(path: Path) -> tuple[Description, Run]:
    """Open an exported file: what it says of itself, and what runs it."""
    if not path.is_file():
        raise InputError(f"no exported model at {path}; `vertebra export` writes one")
    if path.suffix not in OPENERS:
        raise InputError(f"{path} is no exported model: its name would end in {' or '.join(OPENERS)}")
    return OPENERS[path.suffix](path)


def _open_onnx(path: Path) -> tuple[Description, Run]:
    require(("onnxruntime",), str(path))
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has no class of errors that it documents
        raise InputError(f"{path} is no ONNX file that onnxruntime can read ({_first_line(error)})") from error
    description = read_description(session.get_modelmeta().custom_metadata_map.get(KEY), path)

    def run(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        outputs = session.run(None, {name: inputs[name].numpy() for name in description.inputs})
        return {name: torch.from_numpy(x) for name, x in zip(description.outputs, outputs, strict=True)}

    return description, run


def _open_archive(path: Path) -> tuple[Description, Run]:
    import torchvision  # noqa: F401  (its operators are in the file)

    extra = {f"{KEY}.json": ""}
    try:
        with quiet():
            program = torch.export.load(path, extra_files=extra)
    except Exception as error:  # anything may be in a file
        raise InputError(f"{path} is no file that torch.export can load ({_first_line(error)})") from error
    description = read_description(extra[f"{KEY}.json"] or None, path)
    module = program.module()

    @torch.inference_mode()
    def run(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        outputs = module(*(inputs[name] for name in description.inputs))
        return dict(zip(description.outputs, outputs, strict=True))

    return description, run


OPENERS = {".onnx": _open_onnx, ".pt2": _open_archive}


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
