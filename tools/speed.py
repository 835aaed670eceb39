"""The speed of a detector beside torchvision's: the same weights, images and targets, in one process, in turns."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import torch
from pycocotools import mask as coco_mask
from torch import Tensor, nn
from torchvision.models import detection, resnet
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops import FrozenBatchNorm2d

from ..backbones import InputError
from ..backbones.errors import unknown
from ..heads import create_model, head_row, load_weights
from ..heads.detector import Detector, MaskDetector

CLASSES = 91
# Objects that a training image has: COCO's have 7.3 on average.
OBJECTS = 8
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}

# Our rows that torchvision has a class for.
PEERS: dict[str, Callable[..., nn.Module]] = {"faster_rcnn": detection.FasterRCNN, "mask_rcnn": detection.MaskRCNN}

# What torchvision's `resnet_fpn_backbone` takes.
BACKBONES = tuple(name for name in resnet.__all__ if name.islower())


@dataclass(frozen=True)
class Case:
    """What is measured: images are (H, W), and the models leave them at that size and find `objects` at most.

    steps: of those that `steps_of(head)` names; each is run `repeats` times.
    """

    head: str
    backbone: str
    size: tuple[int, int]
    batch_size: int
    objects: int
    dtype: str
    compiled: bool
    device: torch.device
    steps: Sequence[str]
    repeats: int

    def __post_init__(self) -> None:
        for kind, name, known in (
            ("head with a peer in torchvision", self.head, PEERS),
            ("backbone with a peer in torchvision", self.backbone, BACKBONES),
            ("dtype", self.dtype, DTYPES),
        ):
            if name not in known:
                raise unknown(kind, name, known)
        for name in self.steps:
            if name not in steps_of(self.head):
                raise unknown(f"step of {self.head}", name, steps_of(self.head))
        counts = {key: getattr(self, key) for key in ("batch_size", "objects", "repeats")}
        if min(*self.size, *counts.values()) < 1:
            raise InputError(f"size={self.size}, {counts}: each must be at least 1")


@dataclass(frozen=True)
class Contestant:
    """A model, and the dtype that it is run in by autocast, if any."""

    name: str
    model: nn.Module
    autocast: torch.dtype | None = None


@dataclass(frozen=True)
class Timing:
    """Seconds of each run of a step (`train`, `inference`, `rle`), and how many objects were found in an image."""

    step: str
    name: str
    seconds: tuple[float, ...]
    detections: float | None

    @property
    def median(self) -> float:
        return median(self.seconds)


# --- the models ------------------------------------------------------------------------------------------------------


def contestants(case: Case, images: Sequence[Tensor]) -> list[Contestant]:
    """Return torchvision's model as it ships, torchvision's run as ours is, and ours, with the same random weights."""
    torch.manual_seed(0)
    reference = _torchvisions(case)
    _calibrate_(reference, images)
    tuned, ours = deepcopy(reference), _ours(case)
    load_weights(ours, reference.state_dict())
    tuned.backbone.register_forward_pre_hook(_to_channels_last)
    tuned.to(memory_format=torch.channels_last)
    dtype = DTYPES[case.dtype]
    autocast = None if dtype is torch.float32 else dtype
    how = ["channels_last", *([case.dtype] if autocast else []), *(["compiled"] if case.compiled else [])]
    if case.compiled:
        tuned.backbone.compile()
        tuned.rpn.head.compile()
        ours.compile()
    return [
        Contestant("torchvision as it ships", reference),
        Contestant(", ".join(["torchvision", *how]), tuned, autocast),
        Contestant(", ".join(["vertebra", *how[1:]]), ours, autocast),
    ]


def _torchvisions(case: Case) -> Any:  # torchvision has no types
    body = resnet_fpn_backbone(
        backbone_name=case.backbone, weights=None, norm_layer=FrozenBatchNorm2d, trainable_layers=5
    )
    model = PEERS[case.head](
        body, CLASSES, min_size=min(case.size), max_size=max(case.size), box_detections_per_img=case.objects
    )
    return model.to(case.device)


def _ours(case: Case) -> Detector:
    size = min(case.size), max(case.size)
    row = replace(head_row(case.head), train_size=size, test_size=size, box_detections_per_img=case.objects)
    model = create_model(row, backbone=case.backbone, norm="frozen_batch", num_classes=CLASSES)
    return model.to(case.device)


def _to_channels_last(module: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
    return (inputs[0].contiguous(memory_format=torch.channels_last),)


@torch.no_grad()
def _calibrate_(model: Any, images: Sequence[Tensor]) -> None:
    """Give random weights what a trained detector has: activations of unit size, and detections.

    The norms take the statistics of these images; the class scores are centred and spread, so that some are high.
    """

    def measure(norm: FrozenBatchNorm2d, inputs: tuple[Tensor]) -> None:
        variance, mean = torch.var_mean(inputs[0], dim=(0, 2, 3))
        norm.running_mean.copy_(mean)
        norm.running_var.fill_(variance.mean())  # one for all channels: a small image leaves some without any

    def spread(scores: nn.Linear, inputs: tuple[Tensor], output: Tensor) -> None:
        factor = 2.5 / (output - output.mean(dim=0)).std()
        scores.weight.mul_(factor)
        scores.bias.copy_((scores.bias - output.mean(dim=0)) * factor)

    norms = [module for module in model.modules() if isinstance(module, FrozenBatchNorm2d)]
    hooks = [norm.register_forward_pre_hook(measure) for norm in norms]
    hooks.append(model.roi_heads.box_predictor.cls_score.register_forward_hook(spread))
    model.eval()(list(images))
    for hook in hooks:
        hook.remove()


# --- what they are given ---------------------------------------------------------------------------------------------


def make_images(case: Case) -> list[Tensor]:
    """Return a batch of random images."""
    random = torch.Generator().manual_seed(0)
    return [torch.rand(3, *case.size, generator=random).to(case.device) for _ in range(case.batch_size)]


def make_targets(case: Case) -> list[dict[str, Tensor]]:
    """Return for each image random boxes of a tenth of its sides and more, with labels and elliptic masks."""
    random = torch.Generator().manual_seed(1)
    return [
        {key: value.to(case.device) for key, value in _target(case.size, random).items()}
        for _ in range(case.batch_size)
    ]


def _target(size: tuple[int, int], random: torch.Generator) -> dict[str, Tensor]:
    whole = torch.tensor(size).flip(0)
    sides = whole * (0.1 + 0.6 * torch.rand(OBJECTS, 2, generator=random))
    corner = (whole - sides) * torch.rand(OBJECTS, 2, generator=random)
    x, y = (
        (torch.arange(size[1 - i]) + 0.5 - corner[:, i, None]) / sides[:, i, None] * 2 - 1 for i in (0, 1)
    )  # (OBJECTS, W) and (OBJECTS, H), -1 to 1 in the box
    return {
        "boxes": torch.cat((corner, corner + sides), dim=1),
        "labels": torch.randint(1, CLASSES, (OBJECTS,), generator=random),
        "masks": (x[:, None, :] ** 2 + y[:, :, None] ** 2 < 1).to(torch.uint8),
    }


# --- the steps -------------------------------------------------------------------------------------------------------

Images = Sequence[Tensor]
Found = list[dict[str, Any]]


def train(contestant: Contestant, images: Images, targets: Sequence[Mapping[str, Tensor]]) -> Callable[[], None]:
    """Return a training step: losses, gradients of all layers, SGD."""
    model = contestant.model.train()
    # So slow that the weights, and with them the work, stay as they are.
    optimiser = torch.optim.SGD(model.parameters(), lr=1e-9, momentum=0.9)

    def step() -> None:
        with _autocast(contestant, images):
            loss = sum(model(images, targets).values())
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()

    return step


def inference(contestant: Contestant, images: Images, mask_format: str = "dense") -> Callable[[], Found]:
    """Return a step of detection."""
    model = contestant.model.eval()
    if isinstance(model, MaskDetector):
        model.mask_format = mask_format

    def step() -> Found:
        with torch.no_grad(), _autocast(contestant, images):
            found: Found = model(images)
        return found

    return step


def rle(contestant: Contestant, images: Images) -> Callable[[], Found]:
    """Return a step of detection with masks as COCO's run lengths, as its evaluation and its result files want them."""
    detect = inference(contestant, images, "rle")
    if isinstance(contestant.model, MaskDetector):
        return detect

    def step() -> Found:
        return [{**one, "masks": [_encode(mask) for mask in one["masks"]]} for one in detect()]

    return step


def _encode(mask: Tensor) -> dict[str, Any]:
    encoded: dict[str, Any] = coco_mask.encode(np.asfortranarray((mask[0] > 0.5).cpu().numpy(), dtype=np.uint8))
    return encoded


def _autocast(contestant: Contestant, images: Images) -> Any:
    if contestant.autocast is None:
        return nullcontext()
    return torch.autocast(images[0].device.type, contestant.autocast)


STEPS: dict[str, Callable[..., Callable[[], Any]]] = {"inference": inference, "rle": rle, "train": train}


def steps_of(head: str) -> list[str]:
    """Return the steps that a head has, in the order that they are measured in."""
    return [name for name in STEPS if name != "rle" or head == "mask_rcnn"]


# --- measuring -------------------------------------------------------------------------------------------------------


def measure(case: Case) -> Iterator[list[Timing]]:
    """Yield for each step the timings of all contestants, torchvision's as it ships first.

    Each runs once unmeasured; then they take turns, so that whatever else the machine does meets all of them.
    """
    images, targets = make_images(case), make_targets(case)
    models = contestants(case, images)
    for name in [known for known in STEPS if known in case.steps]:  # training comes last: it changes the weights
        given = (images, targets) if name == "train" else (images,)
        runs = [STEPS[name](contestant, *given) for contestant in models]
        found = [run() for run in runs]
        turns = [[_seconds(run, case.device) for run in runs] for _ in range(case.repeats)]
        yield [
            Timing(name, contestant.name, seconds, _objects(one))
            for contestant, seconds, one in zip(models, zip(*turns, strict=True), found, strict=True)
        ]


def _seconds(run: Callable[[], object], device: torch.device) -> float:
    _wait(device)
    start = perf_counter()
    run()
    _wait(device)
    return perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def _objects(found: Found | None) -> float | None:
    return None if found is None else sum(len(one["boxes"]) for one in found) / len(found)


@contextmanager
def threads(number: int | None) -> Iterator[int]:
    """Use so many threads on the CPU, or with None as many as torch does; yield their number."""
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield torch.get_num_threads()
    finally:
        torch.set_num_threads(before)


def machine(device: torch.device) -> str:
    """Return the name of what computes."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
