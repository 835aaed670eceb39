"""Where the time of a step goes, by part: what is called in it is timed from outside, less what that calls in turn."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import nn

from ..data.images import read_image
from .hardware import wait

PACKAGE = __name__.rsplit(".", 3)[0]  # vertebra


@dataclass(frozen=True)
class Probe:
    """What counts as a part: a callable of the model, or one of a module's (`module:name`), by a path of names."""

    part: str
    at: str


class Clock:
    """Adds up the seconds of calls by part; those of a call within another are the inner one's alone.

    What a device was told to do before a call, or in it, is waited for, so that its time falls to what asked for it.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, float] = {}
        self.inner = 0.0

    def time(self, part: str, call: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        before, self.inner = self.inner, 0.0
        start = self._now()
        try:
            return call(*arguments, **named)
        finally:
            spent = self._now() - start
            self.seconds[part] = self.seconds.get(part, 0.0) + spent - self.inner
            self.inner = before + spent

    def timed(self, part: str, call: Callable[..., Any]) -> Callable[..., Any]:
        return partial(self.time, part, call)

    def _now(self) -> float:
        wait(self.device)
        return perf_counter()


def _probes(**parts: str) -> tuple[Probe, ...]:
    return tuple(Probe(part.replace("_", " "), at) for part, paths in parts.items() for at in paths.split())


_OUTER = _probes(backward="torch:Tensor.backward", optimiser="torch:optim.SGD.step torch:optim.Optimizer.zero_grad")
_HEADS = f"{PACKAGE}.heads"

# Where the parts are. Paths that a model lacks (masks) are no part of it.
_OUR_RCNN = _probes(
    transform=f"{_HEADS}.detector:make_batch",
    trunk="backbone",
    RPN_head="rpn.head",
    proposals="rpn.anchors_of rpn.propose",
    NMS=f"{_HEADS}.rpn:survivors {_HEADS}.roi_heads:survivors",
    RoI="roi_heads.pool roi_heads.box_head roi_heads.box_predictor",
    masks=f"roi_heads.mask_pool roi_heads.mask_head roi_heads.mask_predictor {_HEADS}.detector:MASK_FORMATS.dense",
    run_lengths=f"{_HEADS}.detector:MASK_FORMATS.rle",
)
_THEIR_RCNN = _probes(
    transform="transform",
    trunk="backbone",
    RPN_head="rpn.head",
    proposals="rpn",
    NMS="torchvision.ops.boxes:batched_nms",
    RoI="roi_heads.box_roi_pool roi_heads.box_head roi_heads.box_predictor",
    masks="roi_heads.mask_roi_pool roi_heads.mask_head roi_heads.mask_predictor "
    "torchvision.models.detection.transform:paste_masks_in_image",
    run_lengths=f"{PACKAGE}.tools.speed.steps:encode",
)
_SEGMENTER = _probes(trunk="backbone", head="classifier aux_classifier")
_OUR_SEGMENTER = (*_probes(transform=f"{_HEADS}.segmenter:make_batch"), *_SEGMENTER)
_THEIR_SEGMENTER = (*_probes(transform=f"{PACKAGE}.tools.peers:normalize"), *_SEGMENTER)


@dataclass(frozen=True)
class Anatomy:
    """The parts of a kind of model: in every step, and besides in detection (both kinds of it) and in training."""

    always: Sequence[Probe]
    finding: Sequence[Probe]
    training: Sequence[Probe]

    def of(self, step: str) -> tuple[Probe, ...]:
        return (*self.always, *(self.training if step == "train" else self.finding), *_OUTER)


# By whose the model is, and whether it finds boxes. The losses have what they learn from: matching and sampling.
ANATOMIES: Mapping[tuple[str, bool], Anatomy] = {
    ("vertebra", True): Anatomy(
        _OUR_RCNN, _probes(RoI="roi_heads.detect"), _probes(losses="rpn.losses roi_heads.losses")
    ),
    ("torchvision", True): Anatomy(
        _THEIR_RCNN,
        _probes(RoI="roi_heads"),
        _probes(losses="roi_heads rpn.assign_targets_to_anchors rpn.box_coder.encode rpn.compute_loss"),
    ),
    ("vertebra", False): Anatomy(_OUR_SEGMENTER, _probes(class_maps="segment"), _probes(losses="losses")),
    ("torchvision", False): Anatomy(_THEIR_SEGMENTER, _probes(class_maps="forward"), _probes(losses="forward")),
}

# The order of the figures.
PARTS = (
    "decode", "transform", "trunk", "RPN head", "proposals", "NMS", "RoI", "masks", "run lengths", "head",
    "class maps", "losses", "backward", "optimiser", "other",
)  # fmt: skip


def parts_of(
    kind: str, model: nn.Module, step: str, run: Callable[[], object], device: torch.device, repeats: int
) -> dict[str, float]:
    """Return the mean seconds of each part of a step; `other` is what is left of the whole."""
    clock = Clock(device)
    anatomy = ANATOMIES[kind, hasattr(model, "rpn")]
    with watched(model, anatomy.of(step), clock):
        for _ in range(repeats):
            clock.time("other", run)
    return {part: clock.seconds[part] / repeats for part in PARTS if part in clock.seconds}


@contextmanager
def watched(model: nn.Module, probes: Sequence[Probe], clock: Clock) -> Iterator[None]:
    """Time what the probes name while this lasts."""
    with ExitStack() as stack:
        for probe in probes:
            place = _place(model, probe.at)
            if place is not None:
                stack.enter_context(_replaced(*place, partial(clock.timed, probe.part)))
        yield


def _place(model: nn.Module, path: str) -> tuple[Any, str] | None:
    """Return what holds the callable at a path, and its name there; None where the model has no such part."""
    module, colon, names = path.partition(":")
    owner: Any = import_module(module) if colon else model
    *inner, last = (names if colon else path).split(".")
    for name in inner:
        owner = owner[name] if isinstance(owner, Mapping) else getattr(owner, name, None)
    found = owner[last] if isinstance(owner, Mapping) else getattr(owner, last, None)
    if found is None and not colon:
        return None
    if isinstance(found, nn.Module):
        # What `module.compile()` makes, timers and all, is called in place of forward.
        return found, "forward" if found._compiled_call_impl is None else "_compiled_call_impl"
    return owner, last


def _replaced(owner: Any, name: str, change: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Any:
    if isinstance(owner, MutableMapping):
        return patch.dict(owner, {name: change(owner[name])})
    call = getattr(owner, name)
    if isinstance(owner, type):  # of a class, so that the call has its instance

        def method(self: Any, *arguments: Any, **named: Any) -> Any:
            return change(call)(self, *arguments, **named)

        return patch.object(owner, name, method)
    return patch.object(owner, name, change(call))


# --- image files -----------------------------------------------------------------------------------------------------


def _with_pillow(path: Path) -> object:
    """Read an image as torchvision's references do by default."""
    from PIL import Image
    from torchvision.transforms.functional import pil_to_tensor

    with Image.open(path) as image:
        return pil_to_tensor(image.convert("RGB"))


def _with_ours(path: Path) -> object:
    return torch.from_numpy(read_image(path)).permute(2, 0, 1)


READERS: Mapping[str, Callable[[Path], object]] = {"torchvision": _with_pillow, "vertebra": _with_ours}


def decode_seconds(kind: str, size: tuple[int, int], images: int, repeats: int) -> float:
    """Return the median seconds to read a batch of JPEGs (H, W) from disk to tensors."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "image.jpg"
        _write_picture(path, size)
        READERS[kind](path)
        seconds = []
        for _ in range(repeats):
            start = perf_counter()
            for _ in range(images):
                READERS[kind](path)
            seconds.append(perf_counter() - start)
    return median(seconds)


def _write_picture(path: Path, size: tuple[int, int]) -> None:
    """Write a JPEG with blurred noise, of about as many bytes for a pixel as photographs have."""
    import cv2

    coarse = np.random.default_rng(0).integers(0, 256, (-(-size[0] // 8), -(-size[1] // 8), 3), np.uint8)
    smooth = cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC)
    noise = np.random.default_rng(1).integers(-8, 9, (*size, 3))
    cv2.imwrite(str(path), (smooth.astype(int) + noise).clip(0, 255).astype(np.uint8))
