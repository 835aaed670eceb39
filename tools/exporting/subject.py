"""An exported file as something that `vertebra evaluate` measures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console

from ...backbones import InputError
from ..config import read_data
from ..data.sets import check_categories
from ..exported import ExportedModel
from ..measurements import Measurement
from ..memory import keep_freed_memory
from ..run_report import Origin
from ..settings import Engine
from ..sources import open_split
from ..trial import DetectionEvaluator, Trial, measure


@dataclass(frozen=True)
class ExportedFile:
    """An exported file and the held-out images that it is measured on. of_detections: options for detectors alone."""

    path: Path
    data: str
    data_root: str | None
    split: str
    evaluator: DetectionEvaluator
    console: Console
    of_detections: tuple[str, ...] = ()

    @property
    def origin(self) -> Origin:
        facts = (("exported model", str(self.path)), ("data", f"{self.data}, {self.split}"))
        return Origin(self.path.name, facts)

    def measure(self) -> Measurement:
        keep_freed_memory()
        model = ExportedModel(self.path)
        about = model.description
        if self.of_detections and about.finds[0] != "boxes":
            raise InputError(f"{', '.join(self.of_detections)} is for detections; {self.path} gives none")
        if "--boundary" in self.of_detections and "masks" not in about.finds:
            raise InputError(f"--boundary is for masks; {self.path} gives boxes alone")
        root = None if self.data_root is None else str(Path(self.data_root).resolve())
        settings = read_data(self.data, root)
        data = open_split(settings, self.split, about.finds)
        check_categories(data, about.named)
        engine = Engine()
        trial = Trial(
            model,
            data,
            about.named,
            pictures=engine.pictures,
            device=torch.device("cpu"),
            workers=engine.workers,
            console=self.console,
            detections=self.evaluator,
        )
        found = measure(trial)
        assert found is not None  # there is no other process
        return found
