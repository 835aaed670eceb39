"""What a step of a model costs, of any head on any backbone: seconds, memory and floating-point operations.

Weights, images and objects are random, but what the model finds is given: as many objects as are asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.flop_counter import FlopCounterMode

from ..backbones import InputError
from ..backbones.errors import unknown
from ..backbones.optimise import optimize
from ..heads import create_model, head_row
from ..heads.boxed_masks import BoxedMasks
from ..heads.detector import Detector, MaskDetector
from .engine.arrival import Batch
from .memory import keep_freed_memory, map_large_tensors
from .timing import Memory, seconds_of

Size = tuple[int, int]

# Boxes that are likely enough to go into suppression, for each object that comes out of it.
CANDIDATES = 10
# Side in pixels of the squares of one class that an image to segment has.
SQUARE = 32


@dataclass(frozen=True)
class Work:
    """What a step works on: images (H, W), which the model leaves at that size.

    objects: of an image, both those that a detector learns from and those that it finds; a model of another kind has
    none. classes: with the background, where the head has one.
    """

    head: str
    backbone: str
    size: Size = (320, 416)
    batch_size: int = 1
    objects: int = 8
    classes: int = 91

    def __post_init__(self) -> None:
        counts = {"batch_size": self.batch_size, "objects": self.objects, "classes": self.classes}
        if min(*self.size, *counts.values()) < 1:
            raise InputError(f"size={self.size}, {counts}: each must be at least 1")
        head_row(self.head)

    @property
    def detects(self) -> bool:
        """Whether the head finds objects."""
        return issubclass(head_row(self.head).model, Detector)


@dataclass(frozen=True)
class Cost:
    """Seconds of each run of a step, and bytes at its peak.

    flop: floating-point operations of inference on an image, whatever the step: convolutions and matrix products as
    written, two for a multiply-add. found: objects in an image, in a detector's inference. parameters: of the whole
    model.
    """

    step: str
    seconds: tuple[float, ...]
    memory: int | None
    flop: int
    found: float | None
    parameters: int

    @property
    def median(self) -> float:
        return median(self.seconds)


def cost(work: Work, step: str, device_name: str, threads: int, repeats: int) -> Cost:
    """Build the model, and measure one of STEPS; meant for a fresh process (`timing.in_fresh_process`).

    Memory counts from before the model was built. Nothing of the process's own settings is put back.
    """
    torch.set_num_threads(threads)
    device = torch.device(device_name)
    if device.type == "cpu":
        keep_freed_memory()
    memory = Memory(device)
    model = build(work).to(device)
    batch = make_batch(work)
    images = [image.to(device) for image, _ in batch]
    targets = [{key: value.to(device) for key, value in target.items()} for _, target in batch]
    try:
        calibrate_(model, images)
    except ValueError as error:  # torch's, of a batch norm that is given one value
        raise InputError(f"{work.backbone} at {work.size}: {error}; take larger images, or more of them") from error
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        model(images)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    run = STEPS[step](model, images, targets)
    del model  # inference has a copy of its own
    if device.type == "cpu":
        map_large_tensors()  # gives back what building has left
        keep_freed_memory()
    memory.restart()
    found = run()
    seconds = seconds_of(run, device, repeats)
    return Cost(
        step,
        seconds,
        memory.peak(),
        counter.get_total_flops() // work.batch_size,
        None if found is None or not work.detects else sum(len(one["boxes"]) for one in found) / len(found),
        parameters,
    )


# --- the model, and what it is given ---------------------------------------------------------------------------------


def build(work: Work) -> nn.Module:
    """Return the model with random weights; images keep their size, and a detector finds `objects` at most."""
    torch.manual_seed(0)
    row = head_row(work.head)
    settings: dict[str, Any] = {"train_size": None, "test_size": None, "box_detections_per_img": work.objects}
    known = {field.name for field in fields(row)}
    row = replace(row, **{name: value for name, value in settings.items() if name in known})
    return create_model(row, backbone=work.backbone, num_classes=work.classes)


def make_batch(work: Work) -> Batch:
    """Return random images (3, H, W), uint8, with the targets that the head learns from."""
    random = torch.Generator().manual_seed(0)
    keys = head_row(work.head).model.target_keys
    samples = []
    for number in range(work.batch_size):
        pixels = torch.randint(0, 256, (3, *work.size), dtype=torch.uint8, generator=random)
        numbers = {name: torch.tensor(number) for name in ("image_id", "seed")}  # as the engine's samples have them
        targets = (_objects if work.detects else _labels)(work, random)
        samples.append((pixels, {**{key: targets[key] for key in keys}, **numbers}))
    return samples


def _objects(work: Work, random: torch.Generator) -> dict[str, Any]:
    """Return ellipses in boxes of 5 to 50 % of the image's sides."""
    whole = torch.tensor(work.size).flip(0)
    sides = whole * (0.05 + 0.45 * torch.rand(work.objects, 2, generator=random))
    corner = (whole - sides) * torch.rand(work.objects, 2, generator=random)
    x, y = (
        (torch.arange(work.size[1 - i]) + 0.5 - corner[:, i, None]) / sides[:, i, None] * 2 - 1 for i in (0, 1)
    )  # (objects, W) and (objects, H), -1 to 1 in the box
    masks = (x[:, None, :] ** 2 + y[:, :, None] ** 2 < 1).to(torch.uint8)
    return {
        "boxes": torch.cat((corner, corner + sides), dim=1),
        "labels": torch.randint(1, work.classes, (work.objects,), generator=random),
        "masks": BoxedMasks.from_dense(masks),
    }


def _labels(work: Work, random: torch.Generator) -> dict[str, Any]:
    """Return a class for the image, and one for each pixel, in squares."""
    rows, columns = (-(-side // SQUARE) for side in work.size)
    squares = torch.randint(work.classes, (rows, columns), generator=random)
    pixels = squares.repeat_interleave(SQUARE, dim=0).repeat_interleave(SQUARE, dim=1)
    return {"label": squares[0, 0], "semantic": pixels[: work.size[0], : work.size[1]]}


# --- what a trained model has ----------------------------------------------------------------------------------------


@torch.no_grad()
def calibrate_(model: nn.Module, images: Sequence[Tensor]) -> None:
    """Give random weights what a trained model has: activations of unit size, and as many likely boxes as objects.

    Norms take the statistics of these images. A detector's class scores are centred and spread, and the threshold is
    such that CANDIDATES boxes of a class are likely for each object that it may find.
    """
    model.eval()
    with _learning_statistics(model):
        if not isinstance(model, Detector):
            model(images)
            return
        layer = model.roi_heads.box_predictor.cls_score
        handle = layer.register_forward_hook(_spread_)
        model(images)
        handle.remove()
    scores: list[Tensor] = []
    handle = layer.register_forward_hook(lambda _, __, logits: scores.append(logits))
    model(images)
    handle.remove()
    settings = model.roi_heads.settings
    likely = torch.cat(scores).softmax(dim=-1)[:, 1:].flatten()
    count = min(len(likely), CANDIDATES * settings.detections * len(images) + 1)
    model.roi_heads.settings = replace(settings, score_threshold=float(likely.topk(count).values[-1]))


@contextmanager
def _learning_statistics(model: nn.Module) -> Iterator[None]:
    """Let batch norms of a model in eval mode take the statistics of what they are given for their running ones."""
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    before = [norm.momentum for norm in norms]
    for norm in norms:
        norm.train()
        norm.momentum = 1.0
    yield
    for norm, momentum in zip(norms, before, strict=True):
        norm.eval()
        norm.momentum = momentum


def _spread_(layer: nn.Module, inputs: tuple[Tensor], scores: Tensor) -> Tensor:
    """Give the scores (P, K) of a linear layer the mean 0 in each class, and the standard deviation 2.5 in all."""
    assert isinstance(layer, nn.Linear)
    mean = scores.mean(dim=0)
    factor = 2.5 / (scores - mean).std()
    layer.weight.mul_(factor)
    layer.bias.copy_((layer.bias - mean) * factor)
    return layer.forward(inputs[0])


# --- the steps -------------------------------------------------------------------------------------------------------

Images = Sequence[Tensor]
Targets = Sequence[dict[str, Any]]
Step = Callable[[], list[dict[str, Any]] | None]


def inference(model: nn.Module, images: Images, targets: Targets) -> Step:
    """Return a step of detection, segmentation or classification, by the model as `vertebra.optimize` makes it."""
    if isinstance(model, MaskDetector):
        model.mask_format = "rle"  # as evaluation wants masks
    fast = optimize(model)

    def step() -> list[dict[str, Any]]:
        with torch.inference_mode():
            found: list[dict[str, Any]] = fast(images)
        return found

    return step


def train(model: nn.Module, images: Images, targets: Targets) -> Step:
    """Return a training step: losses, gradients of all layers, SGD with momentum."""
    model.train()
    # So slow that the weights, and with them the work, stay as they are.
    optimiser = torch.optim.SGD(model.parameters(), lr=1e-9, momentum=0.9)

    def step() -> None:
        torch.stack(list(model(images, targets).values())).sum().backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        optimiser.zero_grad()

    return step


STEPS: dict[str, Callable[[nn.Module, Images, Targets], Step]] = {"inference": inference, "train": train}


# --- what the user writes --------------------------------------------------------------------------------------------


def read_size(text: str) -> Size:
    """Read (height, width) from HxW."""
    height, cross, width = text.partition("x")
    if not (cross and height.isdigit() and width.isdigit()):
        raise InputError(f"{text!r} is no size; it is HxW, such as 480x640")
    return int(height), int(width)


def read_count(text: str) -> int:
    """Read a number from 1 on."""
    if not text.isdigit() or int(text) < 1:
        raise InputError(f"{text!r} is no number from 1 on")
    return int(text)


def read_steps(text: str) -> list[str]:
    """Read names of steps, with commas between them."""
    steps = text.split(",")
    for name in steps:
        if name not in STEPS:
            raise unknown("step", name, STEPS)
    return steps
