"""Public weights of whole models: the detectors and segmenters that torchvision trained on COCO, by name."""

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

    categories: (id, name) for each label from the model's first (1 of a detector, 0 of a segmenter), `N/A` for labels
    without a category. metrics: per cent on COCO val2017, `box_ap` and `mask_ap` of detectors, `miou` and `pixel_acc`
    of segmenters.
    """

    head: str
    backbone: str
    norm: str
    num_classes: int
    weights: WeightsRecord
    categories: Categories
    metrics: Mapping[str, float]

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
                f"and {self.num_classes} classes"
            ),
        )


@dataclass(frozen=True)
class _Task:
    """What the records of one kind of model have in common: what torchvision calls things, and the first label."""

    tag: str
    data: str
    metrics: Mapping[str, str]  # ours from torchvision's
    input_size: int  # the short side
    first_label: int


_DETECTION = _Task("COCO_V1", "COCO-val2017", {"box_map": "box_ap", "mask_map": "mask_ap"}, 800, first_label=1)
_SEMANTIC = _Task(
    "COCO_WITH_VOC_LABELS_V1",
    "COCO-val2017-VOC-labels",
    {"miou": "miou", "pixel_acc": "pixel_acc"},
    520,
    first_label=0,
)


@dataclass(frozen=True)
class _Published:
    """What torchvision's own records do not say: our names, and the eps that its builder sets after loading."""

    task: _Task
    head: str
    norm: str
    backbone: str = "resnet50"
    eps: float | None = None


# The first versions were trained when torchvision's frozen norms had no eps (pytorch/vision pull request 2933).
_TORCHVISION: Mapping[str, _Published] = {
    "fasterrcnn_resnet50_fpn": _Published(_DETECTION, "faster_rcnn", "frozen_batch", eps=0.0),
    "fasterrcnn_resnet50_fpn_v2": _Published(_DETECTION, "faster_rcnn_v2", "batch"),
    "maskrcnn_resnet50_fpn": _Published(_DETECTION, "mask_rcnn", "frozen_batch", eps=0.0),
    "maskrcnn_resnet50_fpn_v2": _Published(_DETECTION, "mask_rcnn_v2", "batch"),
    "deeplabv3_resnet50": _Published(_SEMANTIC, "deeplabv3", "batch"),
    "deeplabv3_resnet101": _Published(_SEMANTIC, "deeplabv3", "batch", backbone="resnet101"),
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
    task = published.task
    theirs: Any = get_model_weights(name.removeprefix(TORCHVISION))[task.tag]
    metrics = theirs.meta["_metrics"][task.data]
    labels = tuple(enumerate(theirs.meta["categories"]))
    return ModelRecord(
        published.head,
        published.backbone,
        published.norm,
        len(labels),
        WeightsRecord(
            tag=name,
            url=theirs.url,
            source="torchvision",
            input_size=task.input_size,
            licence="BSD-3-Clause",
            sha256=PurePosixPath(theirs.url).stem.rpartition("-")[2],
            eps=published.eps,
        ),
        labels[task.first_label :],
        {ours: metrics[key] for key, ours in task.metrics.items() if key in metrics},
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
