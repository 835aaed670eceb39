"""The speed of a model beside torchvision's: the same weights, images and targets, in one process, in turns."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from ..backbones import InputError
from ..backbones.errors import unknown
from ..heads import load_weights
from .memory import map_large_tensors
from .peers import our_model, peer_of
from .speed_steps import STEPS, Contestant

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Case:
    """What is measured: images are (H, W), and the models leave them at that size; detectors find `objects` at most.

    steps: of those that the head's peer has; each is run `repeats` times.
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
        peer = peer_of(self.head)
        for kind, name, known in (
            (f"backbone of torchvision's {self.head}", self.backbone, peer.backbones),
            ("dtype", self.dtype, DTYPES),
            *((f"step of {self.head}", step, peer.steps) for step in self.steps),
        ):
            if name not in known:
                raise unknown(kind, name, known)
        counts = {key: getattr(self, key) for key in ("batch_size", "objects", "repeats")}
        if min(*self.size, *counts.values()) < 1:
            raise InputError(f"size={self.size}, {counts}: each must be at least 1")
        if "train" in self.steps and self.batch_size < peer.least_batch:
            raise InputError(
                f"batch_size={self.batch_size}; torchvision's {self.head} trains on {peer.least_batch} images or more: "
                "give more, or leave out the step train"
            )


@dataclass(frozen=True)
class Timing:
    """Seconds of each run of a step (`train`, `inference`, `rle`), and what the peer says of what was found."""

    step: str
    name: str
    seconds: tuple[float, ...]
    found: float | None

    @property
    def median(self) -> float:
        return median(self.seconds)


# --- the models ------------------------------------------------------------------------------------------------------


def contestants(case: Case, images: Sequence[Tensor]) -> list[Contestant]:
    """Return torchvision's model as it ships, torchvision's run as ours is, and ours, with the same random weights."""
    torch.manual_seed(0)
    peer = peer_of(case.head)
    reference: Any = peer.reference(case.backbone, peer.classes, case.size, case.objects).to(case.device)
    _calibrate_(reference, reference.get_submodule(peer.class_scores), images)
    tuned, ours = deepcopy(reference), our_model(case.head, case.backbone, case.size, case.objects).to(case.device)
    load_weights(ours, reference.state_dict())
    tuned.backbone.register_forward_pre_hook(_to_channels_last)
    tuned.to(memory_format=torch.channels_last)
    dtype = DTYPES[case.dtype]
    autocast = None if dtype is torch.float32 else dtype
    how = ["channels_last", *([case.dtype] if autocast else []), *(["compiled"] if case.compiled else [])]
    if case.compiled:
        for name in peer.trunk:
            tuned.get_submodule(name).compile()
        ours.compile()
    return [
        Contestant("torchvision as it ships", reference, memory=map_large_tensors),
        Contestant(", ".join(["torchvision", *how]), tuned, autocast),
        Contestant(", ".join(["vertebra", *how[1:]]), ours, autocast),
    ]


def _to_channels_last(module: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
    return (inputs[0].contiguous(memory_format=torch.channels_last),)


@torch.no_grad()
def _calibrate_(model: nn.Module, class_scores: nn.Module, images: Sequence[Tensor]) -> None:
    """Give random weights what a trained model has: activations of unit size, and classes to be found.

    The norms take the statistics of these images; the class scores are centred and spread, so that some are high.
    """

    def measure(norm: Any, inputs: tuple[Tensor]) -> None:
        variance, mean = torch.var_mean(inputs[0], dim=(0, 2, 3), correction=0)
        norm.running_mean.copy_(mean)
        norm.running_var.fill_(variance.mean())  # one for all channels: a small image leaves some without any

    def spread(layer: Any, inputs: tuple[Tensor], output: Tensor) -> Tensor:
        scores = output.transpose(0, 1).flatten(1)  # (K, objects) or (K, N * h * w)
        mean = scores.mean(dim=1)
        factor = 2.5 / (scores - mean[:, None]).std()
        layer.weight.mul_(factor)
        layer.bias.copy_((layer.bias - mean) * factor)
        changed: Tensor = layer.forward(inputs[0])  # norms that follow take the statistics of what is found
        return changed

    norms = [module for module in model.modules() if isinstance(module, FrozenBatchNorm2d | nn.BatchNorm2d)]
    hooks = [norm.register_forward_pre_hook(measure) for norm in norms]
    hooks.append(class_scores.register_forward_hook(spread))
    model.eval()(list(images))
    for hook in hooks:
        hook.remove()


# --- what they are given ---------------------------------------------------------------------------------------------


def make_images(case: Case) -> list[Tensor]:
    """Return a batch of random images."""
    random = torch.Generator().manual_seed(0)
    return [torch.rand(3, *case.size, generator=random).to(case.device) for _ in range(case.batch_size)]


def make_targets(case: Case) -> list[dict[str, Tensor]]:
    """Return random targets for each image."""
    random = torch.Generator().manual_seed(1)
    peer = peer_of(case.head)
    return [
        {key: value.to(case.device) for key, value in peer.targets(case.size, peer.classes, random).items()}
        for _ in range(case.batch_size)
    ]


# --- measuring -------------------------------------------------------------------------------------------------------


def measure(case: Case) -> Iterator[list[Timing]]:
    """Yield for each step the timings of all contestants, torchvision's as it ships first.

    Each runs once unmeasured; then they take turns, so that whatever else the machine does meets all of them.
    """
    images, targets = make_images(case), make_targets(case)
    models, compare = contestants(case, images), peer_of(case.head).compare
    for name in [known for known in STEPS if known in case.steps]:
        given = (images, targets) if name == "train" else (images,)
        runs = [STEPS[name](contestant, *given) for contestant in models]
        found = [run() for run in runs]
        turns = [_turn(models, runs, case.device) for _ in range(case.repeats)]
        # With the one before, so that the last two, which round alike, are compared with each other.
        pairs = zip([found[0], *found[:-1]], found, strict=True)
        said = [None if one is None else compare(before, one) for before, one in pairs]
        yield [
            Timing(name, contestant.name, seconds, one)
            for contestant, seconds, one in zip(models, zip(*turns, strict=True), said, strict=True)
        ]


def _turn(models: Sequence[Contestant], runs: Sequence[Callable[[], object]], device: torch.device) -> list[float]:
    """Return the seconds of one run of each; after the C library was told otherwise the first run does not count."""
    seconds, told = [], None
    for contestant, run in zip(models, runs, strict=True):
        if contestant.memory is not told:
            told = contestant.memory
            if told() and device.type == "cpu":
                run()
        seconds.append(_seconds(run, device))
    return seconds


def _seconds(run: Callable[[], object], device: torch.device) -> float:
    _wait(device)
    start = perf_counter()
    run()
    _wait(device)
    return perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


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
