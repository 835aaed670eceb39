"""What is measured, and what it is given: images and targets made up from fixed seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec

import torch
from torch import Tensor

from ...backbones import InputError
from ...backbones.errors import unknown
from ...backbones.exchange.detectron2 import DETECTRON2
from ..peers import peer_of
from .hardware import DTYPES

# The libraries that ours can stand beside, and which heads of ours each has (None: all that `peers.PEERS` lists).
LIBRARIES: dict[str, tuple[str, ...] | None] = {
    "torchvision": None,
    "detectron2": ("faster_rcnn", "mask_rcnn"),
}


@dataclass(frozen=True)
class Case:
    """What is measured: images are (H, W), and the models leave them at that size; detectors find `objects` at most.

    dtypes, compiled: how what does not run as it ships is run. steps: of those that the head's peer has; each is run
    `repeats` times. libraries: those beside ours. frozen_stages: of every contestant's backbone, as create_backbone
    counts them. checkpointing: ours comes once more in training, with activations recomputed.
    """

    head: str
    backbone: str
    size: tuple[int, int]
    batch_size: int
    objects: int
    dtypes: tuple[str, ...]
    compiled: bool
    device: torch.device
    steps: tuple[str, ...]
    repeats: int
    libraries: tuple[str, ...]
    frozen_stages: int = 0
    checkpointing: bool = False

    def __post_init__(self) -> None:
        peer = peer_of(self.head)
        for kind, name, known in (
            (f"backbone of torchvision's {self.head}", self.backbone, peer.backbones),
            *(("dtype", dtype, DTYPES) for dtype in self.dtypes),
            *((f"step of {self.head}", step, peer.steps) for step in self.steps),
            *(("library beside ours", name, LIBRARIES) for name in self.libraries),
        ):
            if name not in known:
                raise unknown(kind, name, known)
        for kind, names in (("dtype", self.dtypes), ("step", self.steps), ("library", self.libraries)):
            if len(set(names)) < len(names):
                raise InputError(f"{kind} {max(names, key=names.count)!r} came twice; name each once")
        if not self.dtypes or not self.steps:
            raise InputError(f"dtypes={self.dtypes}, steps={self.steps}: name at least one of each")
        counts = {key: getattr(self, key) for key in ("batch_size", "objects", "repeats")}
        if min(*self.size, *counts.values()) < 1:
            raise InputError(f"size={self.size}, {counts}: each must be at least 1")
        for name in self.libraries:
            _check_library(name, self.head, self.backbone)
        self._check_training(peer.least_batch, peer.norm)

    def _check_training(self, least_batch: int, norm: str) -> None:
        if "train" in self.steps and self.batch_size < least_batch:
            raise InputError(
                f"batch_size={self.batch_size}; torchvision's {self.head} trains on {least_batch} images or more: "
                "give more, or leave out the step train"
            )
        if "train" not in self.steps and (self.frozen_stages or self.checkpointing):
            asked = f"frozen_stages={self.frozen_stages}, checkpointing={self.checkpointing}"
            raise InputError(f"{asked}: these are of training; add the step train, or leave them out")
        if not 0 <= self.frozen_stages <= 5:
            raise InputError(f"frozen_stages={self.frozen_stages}; 0 (none) to 5 (stem, c2 to c5) are allowed")
        # Where torchvision freezes the weights of a stage, plain batch norms in it still follow the batch; ours stop.
        if self.frozen_stages and norm != "frozen_batch":
            raise InputError(
                f"frozen_stages={self.frozen_stages}; in torchvision's {self.head} the norms of frozen stages still "
                "learn: leave it out, or take faster_rcnn or mask_rcnn, whose norms are frozen"
            )


def has(library: str, head: str, backbone: str) -> bool:
    """Say whether a library, installed or not, has a head on a backbone."""
    heads = LIBRARIES[library]
    return heads is None or (head in heads and DETECTRON2.has(backbone))


def installed_libraries(head: str, backbone: str) -> tuple[str, ...]:
    """Return the libraries that are installed and have a head on a backbone."""
    return tuple(name for name in LIBRARIES if find_spec(name) is not None and has(name, head, backbone))


def _check_library(name: str, head: str, backbone: str) -> None:
    if not has(name, head, backbone):
        raise InputError(
            f"{name} has no {head} on {backbone} to compare with; leave it out (it has "
            f"{', '.join(LIBRARIES[name] or ())} on plain ResNets)"
        )
    if find_spec(name) is None:
        raise InputError(f"{name} is not installed; install it beside vertebra, or leave it out")


def make_images(case: Case) -> list[Tensor]:
    """Return a batch of random images, float in [0, 1]."""
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


def given(case: Case, step: str) -> tuple[Sequence[object], ...]:
    """Return what a step is given beside the contestant: images, and to train targets."""
    return (make_images(case), make_targets(case)) if step == "train" else (make_images(case),)
