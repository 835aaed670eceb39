"""Measuring a model: also by several processes, of which each sees a part of the data, and all together the whole."""

import io
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

from vertebra.tools.data.classes import object_crops
from vertebra.tools.data.coco import first_images, read_coco
from vertebra.tools.data.rasterise import rasterised
from vertebra.tools.engine.precision import PRECISIONS
from vertebra.tools.engine.processes import ALONE, Processes
from vertebra.tools.evaluation.classification import ClassificationEvaluator
from vertebra.tools.evaluation.coco import CocoEvaluator
from vertebra.tools.evaluation.semantic import SemanticEvaluator
from vertebra.tools.run_report import Origin, write_measurement_report
from vertebra.tools.trial import Trial, measure

CPU = torch.device("cpu")
NAMES = list("abcdefg")
# The parts differ in size, as those of a data set do that the number of processes does not divide.
ALL, PARTS = slice(0, 5), (slice(0, 3), slice(3, 5))


def scores_of(part: slice) -> list[object]:
    generator = torch.Generator().manual_seed(0)

    def maps() -> Tensor:
        return torch.randint(0, 7, (5, 12, 16), generator=generator).repeat_interleave(4, 2)

    semantic, classification = SemanticEvaluator(NAMES), ClassificationEvaluator(NAMES)
    labels, predictions = maps(), maps()
    semantic.update(labels[part], predictions[part])
    classification.update(labels[:, 0, 0][part], torch.rand(5, 7, generator=generator)[part])
    for evaluator in (semantic, classification):
        evaluator.reduce()
    return [semantic.compute(), classification.compute()]


class Guesses(nn.Module):
    """Outputs that depend on the image, and on a buffer that only the main process has right."""

    def __init__(self, kind: str, rank: int) -> None:
        super().__init__()
        self.target_keys = {"boxes": ("boxes", "labels", "masks")}.get(kind, (kind,))
        self.register_buffer("seed", torch.tensor(7 if rank == 0 else 8))
        self.computed_in: set[torch.dtype] = set()

    def forward(self, images: list[Tensor]) -> list[dict[str, Any]]:
        self.computed_in.add((torch.ones(1, 1) @ torch.ones(1, 1)).dtype)
        return [self.guess(image, torch.Generator().manual_seed(int(image.sum() * self.seed))) for image in images]

    def guess(self, image: Tensor, random: torch.Generator) -> dict[str, Any]:
        height, width = image.shape[-2:]
        if self.target_keys == ("semantic",):
            return {"semantic": torch.randint(0, 5, (height, width), generator=random)}
        if self.target_keys == ("label",):
            scores = torch.rand(4, generator=random)
            return {"label": scores.argmax(), "scores": scores}
        corners = torch.rand(6, 2, generator=random) * width / 2
        return {
            "boxes": torch.cat([corners, corners + 5 + torch.rand(6, 2, generator=random) * width / 3], dim=1),
            "labels": torch.randint(1, 5, (6,), generator=random),
            "scores": torch.rand(6, generator=random),
            "masks": torch.rand(6, 1, height, width, generator=random),
        }


DATA = {"boxes": lambda coco: coco, "semantic": rasterised, "label": lambda coco: object_crops(coco, 0.1)}


def trial_of(kind: str, shapes: Path, processes: Processes = ALONE, **options: Any) -> Trial:
    coco = first_images(read_coco(shapes / "annotations" / "train.json", shapes / "train"), 5)
    data = DATA[kind](coco)
    model, console = Guesses(kind, processes.rank), Console(file=io.StringIO())
    settings = {"pictures": 4, "device": CPU, "workers": 0, "console": console, "processes": processes, **options}
    return Trial(model, data, data.categories, **settings)


def measured(kind: str, shapes: Path, folder: Path, processes: Processes = ALONE) -> tuple[Any, str] | None:
    """Measure, and write what was found with its report; return metrics and text, in other processes nothing."""
    found = measure(trial_of(kind, shapes, processes))
    if found is None:
        return None
    found.write(folder / kind)
    write_measurement_report(folder / kind / "report", found, Origin(kind, ()))
    return found.metrics, found.summary


def written(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def run_rank(rank: int, folder: Path, shapes: Path) -> None:
    torch.distributed.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=2)
    processes = Processes(rank, rank, 2)
    everything = [measured(kind, shapes, folder / f"written-{rank}", processes) for kind in DATA]
    torch.save([scores_of(PARTS[rank]), everything], folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_processes_equal_one(tmp_path: Path, shapes: Path) -> None:
    torch.multiprocessing.spawn(run_rank, (tmp_path, shapes), nprocs=2)
    (scores, everything), (same_scores, nothing) = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    alone = scores_of(ALL)
    assert scores == same_scores == alone
    assert scores_of(PARTS[0]) != alone
    assert everything == [measured(kind, shapes, tmp_path / "alone") for kind in DATA]
    assert nothing == [None] * len(DATA)
    files = written(tmp_path / "alone")
    assert {path.split("/")[0] for path in files} == set(DATA)
    assert len([path for path in files if path.startswith("boxes/pictures/")]) == 4
    assert {f"{kind}/report/index.html" for kind in DATA} <= files.keys()
    assert written(tmp_path / "written-0") == files
    assert not (tmp_path / "written-1").exists()


@pytest.mark.parametrize(("name", "dtype"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)])
def test_the_model_runs_in_the_precision(name: str, dtype: torch.dtype, shapes: Path) -> None:
    trial = trial_of("label", shapes, precision=PRECISIONS[name])
    measure(trial)
    assert trial.model.computed_in == {dtype}


def test_reduce_of_detections_alone_changes_nothing(shapes: Path) -> None:
    coco = read_coco(shapes / "annotations" / "val.json", shapes / "val")
    evaluator = CocoEvaluator(coco.document, coco.categories)
    evaluator.update([coco.images[0].id], [Guesses("boxes", 0)([torch.ones(3, 64, 64)])[0]])
    results = list(evaluator.results)
    evaluator.reduce()
    assert (evaluator.results, evaluator.has_masks) == (results, True)


def test_pictures_of_files_of_the_same_name(tmp_path: Path, shapes: Path) -> None:
    """Two folders each with an image 000000.png give two pictures."""
    document = json.loads((shapes / "annotations" / "val.json").read_text())
    for i, record in enumerate(document["images"][:2]):
        (tmp_path / str(i)).mkdir()
        shutil.copy(shapes / "val" / record["file_name"], tmp_path / str(i) / "same.png")
        record["file_name"] = f"{i}/same.png"
    document["images"] = document["images"][:2]
    ids = {record["id"] for record in document["images"]}
    document["annotations"] = [a for a in document["annotations"] if a["image_id"] in ids]
    (tmp_path / "two.json").write_text(json.dumps(document))
    coco = read_coco(tmp_path / "two.json", tmp_path)
    found = measure(replace(trial_of("boxes", shapes), data=coco))
    assert found is not None
    found.write(tmp_path / "out")
    assert {path.name for path in (tmp_path / "out" / "pictures").iterdir()} == {"same.jpg", "same-2.jpg"}
