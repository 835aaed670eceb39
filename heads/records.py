"""Public weights of whole models: the detectors that torchvision trained on COCO, by name."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from torch import Tensor

from ..backbones import WeightsRecord
from ..backbones.errors import unknown
from ..backbones.records import intact
from ..backbones.weights import Categories, Source, read_source

TORCHVISION = "torchvision/"

# Names that keys had when the first of these weights were published; torchvision turns them into today's as well.
OLD_NAMES = (
    (r"^backbone\.fpn\.(inner|layer)_blocks\.(\d+)\.(weight|bias)$", r"backbone.fpn.\1_blocks.\2.0.\3"),
    (r"^rpn\.head\.conv\.(weight|bias)$", r"rpn.head.conv.0.0.\1"),
    *((rf"^roi_heads\.mask_head\.mask_fcn{i + 1}\.", rf"roi_heads.mask_head.{i}.0.") for i in range(4)),
)

# What a label is called that no category of COCO has: its 80 categories have ids up to 90.
UNUSED = "N/A"


@dataclass(frozen=True)
class ModelRecord:
    """One published set of weights of a whole model, and what it is of.

    categories: (id, name) for each label from 1, `N/A` for labels without a category. box_ap, mask_ap: on COCO val2017,
    per cent.
    """

    head: str
    backbone: str
    norm: str
    weights: WeightsRecord
    categories: Categories
    box_ap: float
    mask_ap: float | None

    def source(self, state: Mapping[str, Tensor]) -> Source:
        """Return the tensors with what is known of them."""
        return Source(
            self.weights.tag,
            state,
            self.weights.preprocessing,
            self.norm,
            self.weights.eps,
            self.categories,
            OLD_NAMES,
            advice=(
                f"These are weights of the head {self.head} on the backbone {self.backbone}, with norm={self.norm!r} "
                f"and {len(self.categories) + 1} classes"
            ),
        )


@dataclass(frozen=True)
class _Published:
    """What torchvision's own records do not say: our names, and the eps that its builder sets after loading."""

    head: str
    norm: str
    eps: float | None = None


# The first versions were trained when torchvision's frozen norms had no eps (pytorch/vision pull request 2933).
_TORCHVISION: Mapping[str, _Published] = {
    "fasterrcnn_resnet50_fpn": _Published("faster_rcnn", "frozen_batch", eps=0.0),
    "fasterrcnn_resnet50_fpn_v2": _Published("faster_rcnn_v2", "batch"),
    "maskrcnn_resnet50_fpn": _Published("mask_rcnn", "frozen_batch", eps=0.0),
    "maskrcnn_resnet50_fpn_v2": _Published("mask_rcnn_v2", "batch"),
}


def model_names() -> tuple[str, ...]:
    """Return the names of public weights of whole models."""
    return tuple(f"{TORCHVISION}{name}" for name in _TORCHVISION)


def model_record(name: str) -> ModelRecord:
    """Return the record of public weights of a whole model, such as `torchvision/fasterrcnn_resnet50_fpn`."""
    from torchvision.models import get_model_weights

    published = _TORCHVISION.get(name.removeprefix(TORCHVISION))
    if published is None or not name.startswith(TORCHVISION):
        raise unknown("weights", name, model_names())
    theirs: Any = get_model_weights(name.removeprefix(TORCHVISION))["COCO_V1"]
    metrics = theirs.meta["_metrics"]["COCO-val2017"]
    return ModelRecord(
        published.head,
        "resnet50",
        published.norm,
        WeightsRecord(
            tag=name,
            url=theirs.url,
            source="torchvision",
            input_size=800,  # the short side
            licence="BSD-3-Clause",
            sha256=PurePosixPath(theirs.url).stem.rpartition("-")[2],
            eps=published.eps,
        ),
        tuple(enumerate(theirs.meta["categories"]))[1:],  # 0 is the background
        metrics["box_map"],
        metrics.get("mask_map"),
    )


def open_source(source: str | os.PathLike[str] | Mapping[str, Any]) -> Source:
    """Read weights by the name of a public model, or what `load_weights` takes.

    A file that was downloaded by hand is known again by its published name and digest.
    """
    if isinstance(source, str) and source.startswith(TORCHVISION) and not Path(source).exists():
        record = model_record(source)
        return record.source(record.weights.fetch())
    read = read_source(source)
    if not isinstance(source, Mapping):
        for record in map(model_record, model_names()):
            if Path(source).name == PurePosixPath(record.weights.url).name and intact(Path(source), record.weights):
                return replace(record.source(read.state), name=read.name)
    return replace(read, renames=OLD_NAMES)
