"""What can be measured: a model on held-out images, or what any program has predicted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import torch
from rich.console import Console
from torch import nn

from ..backbones import InputError
from .build import pick_device
from .data.coco import read_coco
from .data.formats import read_names
from .data.sets import Array, Category, check_categories
from .evaluation.label_folders import read_label_folders
from .evaluation.results import read_instances, read_results
from .evaluation.semantic import SemanticEvaluator
from .evaluation.semantic_images import image_quality
from .evaluation.semantic_report import semantic_picture
from .measurements import Detected, Measurement, Segmented
from .memory import keep_freed_memory
from .published import published_model
from .report.cards import card_picture
from .report.extremes import Extremes
from .run import chosen_checkpoint, open_run, trained_model
from .run_report import Origin, origin_of
from .settings import Config
from .sources import open_split
from .trial import DetectionEvaluator, Trial, measure


class Subject(Protocol):
    """Something that can be measured."""

    @property
    def origin(self) -> Origin: ...

    def measure(self) -> Measurement: ...


@dataclass(frozen=True)
class Trained:
    """A model and the held-out images that it is measured on."""

    origin: Origin
    config: Config
    model: nn.Module
    categories: tuple[Category, ...]
    split: str
    evaluator: DetectionEvaluator
    console: Console

    def measure(self) -> Measurement:
        settings = self.config.engine
        device = pick_device(settings.device)
        if device.type == "cpu":
            keep_freed_memory()
        data = open_split(self.config.data, self.split, self.config.head.model.target_keys)
        check_categories(data, self.categories)
        trial = Trial(
            self.model.to(device),
            data,
            self.categories,
            pictures=settings.pictures,
            device=device,
            workers=settings.workers,
            console=self.console,
            detections=self.evaluator,
        )
        found = measure(trial)
        assert found is not None  # there is no other process
        return found


@dataclass(frozen=True)
class Wish:
    """Which weights are meant, and how they are measured: what `vertebra evaluate` was asked for.

    of_detections: the options that were given and are for detectors alone.
    """

    data: str | None
    data_root: str | None
    split: str
    checkpoint: Path | None
    best: bool
    raw: bool
    overrides: Sequence[str]
    imports: Sequence[str]
    evaluator: DetectionEvaluator
    console: Console
    of_detections: Sequence[str]

    def of_run(self, folder: Path) -> Trained:
        """Return the model of a run."""
        opened = open_run(folder, self._settings, self.imports, self.data)
        path = chosen_checkpoint(opened, self.checkpoint, self.best)
        model, categories = trained_model(opened, path, self.raw)
        origin = origin_of(opened.config, folder.resolve().name, str(path), self.split, folder)
        return self._trained(origin, opened.config, model, categories)

    def of_public(self, name: str) -> Trained:
        """Return a public model, such as `torchvision/maskrcnn_resnet50_fpn`, by default on COCO."""
        config, model, categories = published_model(name, self.data or "coco", self._settings, self.imports)
        return self._trained(origin_of(config, name, name, self.split), config, model, categories)

    @property
    def _settings(self) -> list[str]:
        root = [f"data.root={Path(self.data_root).resolve()}"] if self.data_root else []
        return [*root, *self.overrides]

    def _trained(self, origin: Origin, config: Config, model: nn.Module, categories: tuple[Category, ...]) -> Trained:
        keys = config.head.model.target_keys
        if self.of_detections and keys[0] != "boxes":
            raise InputError(f"{', '.join(self.of_detections)} is for detections; {origin.title} gives none")
        if "--boundary" in self.of_detections and "masks" not in keys:
            raise InputError(f"--boundary is for masks; {origin.title} gives boxes alone")
        return Trained(origin, config, model, categories, self.split, self.evaluator, self.console)

    def folders(self, base: Path) -> tuple[Path, Path]:
        """Return where the measurement and its report go; other data, splits and weights have folders of their own."""
        split = self.split if self.split != "val" else None
        parts = (self.data and Path(self.data).stem, split, self.best and "best", self.raw and "raw")
        first, second = ("-".join([name, *(part for part in parts if part)]) for name in ("evaluation", "report"))
        return base / first, base / second


@dataclass(frozen=True)
class Results:
    """COCO results of any program, and the instances file that they are for; `images`, its images, may be None."""

    predictions: Path
    annotations: Path
    images: Path | None
    evaluator: DetectionEvaluator

    @property
    def origin(self) -> Origin:
        facts = (("results", str(self.predictions)), ("annotations", str(self.annotations)))
        return Origin(self.predictions.name, facts)

    def measure(self) -> Measurement:
        data = None if self.images is None else read_coco(self.annotations, self.images)
        document, categories = read_instances(self.annotations)
        evaluator = self.evaluator(document, categories)
        evaluator.add(read_results(self.predictions, document))
        if evaluator.boundary and not evaluator.has_masks:
            raise InputError(f"--boundary is for masks; {self.predictions} has boxes alone")
        return Detected(evaluator, data)


@dataclass(frozen=True)
class LabelPngs:
    """Label PNGs of any program, and the true ones; `names`, a file of the classes' names, may be None."""

    predictions: Path
    labels: Path
    names: Path | None

    @property
    def origin(self) -> Origin:
        return Origin(self.predictions.name, (("predictions", str(self.predictions)), ("labels", str(self.labels))))

    def measure(self) -> Measurement:
        names = None if self.names is None else read_names(self.names)
        kept: Extremes[bytes] = Extremes()

        def see(evaluator: SemanticEvaluator, truth: Array, found: Array) -> None:
            row = len(evaluator.image_counts) - 1
            draw = partial(_maps_picture, truth, found, evaluator.names)
            kept.add(image_quality(evaluator.image_counts[row]), row, draw)

        return Segmented(read_label_folders(self.predictions, self.labels, names, see=see), lambda: kept)


def _maps_picture(truth: Array, found: Array, names: Sequence[str]) -> bytes:
    """Return both maps beside each other, on grey, for a report; where there is no class (-1), the grey."""
    ground = torch.full((3, *truth.shape), 200, dtype=torch.uint8)
    maps = torch.from_numpy(truth), torch.from_numpy(found)
    return card_picture(semantic_picture(ground, *maps, names, ignore=-1))
