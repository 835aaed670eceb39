"""A tiny data set, a tiny model, and the command line in this process."""

import json
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from vertebra.backbones import registry
from vertebra.tools.data.shapes import Shapes, write_shapes

ROOT = Path(__file__).resolve().parents[2]

# What makes a detector small enough to train in a test.
SMALL = """
head: faster_rcnn
backbone: tinynet
schedule: smoke
set:
  head.fpn_channels: 16
  head.box_head_channels: 32
  head.anchor_scales: [4]
  head.rpn_pre_nms_top_n_train: 200
  head.rpn_post_nms_top_n_train: 50
  head.rpn_post_nms_top_n_test: 20
  head.box_batch_size_per_image: 32
  schedule.epochs: 2
  schedule.warmup_steps: 2
  optim.batch_size: 2
  engine.device: cpu
  engine.workers: 0
  engine.log_every: 1
  engine.pictures: 2
"""


@dataclass(frozen=True)
class Done:
    status: int
    out: str
    err: str


Command = Callable[..., Done]


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str]) -> Command:
    """Run `vertebra` with these arguments, as its entry point does."""
    from vertebra.tools import cli as module

    def call(*arguments: object) -> Done:
        capfd.readouterr()
        with pytest.raises(SystemExit) as exit:
            module.run(lambda: module.app([str(argument) for argument in arguments]))
        out, err = capfd.readouterr()
        return Done(int(exit.value.code or 0), out, err)

    return call


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep what tests index and generate out of the user's cache."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True, scope="module")
def _registered_for_one_module() -> Iterator[None]:
    """Forget after each module of tests what its commands registered by `--import`."""
    with patch.dict(registry._REGISTRY):
        yield
    sys.modules.pop("my_backbone", None)


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a generated data set: 8 training and 4 validation images of 64 pixels."""
    return write_shapes(Shapes(train=8, val=4, size=64, objects=3, seed=0), tmp_path_factory.mktemp("data") / "shapes")


@pytest.fixture(scope="session")
def my_backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The README's example of a backbone of one's own, as a file."""
    (code,) = re.findall(r"```python\n(# my_backbone\.py.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    path = tmp_path_factory.mktemp("mine") / "my_backbone.py"
    path.write_text(code)
    return path


@pytest.fixture
def workplace(tmp_path: Path, shapes: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a run file `small.yaml` and a data file `data.yaml` for the generated set."""
    monkeypatch.chdir(tmp_path)
    _write_files(tmp_path, shapes)
    return tmp_path


def _write_files(folder: Path, shapes: Path) -> None:
    """Write `small.yaml` and `data.yaml`."""
    (folder / "small.yaml").write_text(SMALL)
    split = "{{images: {0}, annotations: annotations/{0}.json}}"
    lines = [f"  root: {shapes}", *(f"  {name}: {split.format(name)}" for name in ("train", "val"))]
    (folder / "data.yaml").write_text("\n".join(["data:", *lines, "transforms: {short: 64, longest: 64}\n"]))


@pytest.fixture
def arguments(my_backbone: Path) -> list[object]:
    """What to give to `vertebra train` in the workplace."""
    return ["train", "small.yaml", "--data", "data.yaml", "--import", my_backbone]


@pytest.fixture(scope="session")
def mask_run(tmp_path_factory: pytest.TempPathFactory, shapes: Path, my_backbone: Path) -> Path:
    """The folder of a run of Mask R-CNN that has learnt nothing: it finds something everywhere, with low scores."""
    import torch

    from vertebra.tools.build import build_model, import_modules, recorded_imports
    from vertebra.tools.config import compose
    from vertebra.tools.engine.checkpoint import save_checkpoint

    place = tmp_path_factory.mktemp("mask_run")
    _write_files(place, shapes)
    imports = recorded_imports([str(my_backbone)])
    choices = {"head": "mask_rcnn", "backbone": None, "data": str(place / "data.yaml"), "schedule": None}
    config = compose(str(place / "small.yaml"), choices, imports, ["head.mask_channels=8", "head.mask_convs=1"])
    with patch.dict(registry._REGISTRY):  # this fixture outlives the module that asks for it first
        import_modules(imports)
        torch.manual_seed(0)
        model = build_model(config, 4)
    sys.modules.pop("my_backbone")
    content = {
        "model": model.state_dict(), "ema": None, "optimiser": {}, "scaler": {},
        "preprocessing": {"mean": [0.5] * 3, "std": [0.5] * 3}, "norm_eps": 1e-5,
        "step": 0, "position": 0, "skipped": 0,
        "categories": [[1, "circle"], [3, "square"], [4, "triangle"], [7, "star"]], "config": config.to_yaml(),
    }  # fmt: skip
    folder = place / "run"
    folder.mkdir()
    (folder / "config.yaml").write_text(config.to_yaml())
    save_checkpoint(folder / "checkpoint.pt", content)
    return folder


@pytest.fixture(scope="session")
def coco_document() -> dict[str, Any]:
    """A small instances document: sparse category ids, a crowd, a box without area, and an image without objects."""
    return {
        "images": [{"id": i, "file_name": f"{i}.png", "height": 60, "width": 80} for i in (7, 3, 12)],
        "categories": [{"id": 18, "name": "dog"}, {"id": 1, "name": "person"}],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 18, "bbox": [10, 20, 30, 15], "area": 450, "iscrowd": 0},
            {"id": 2, "image_id": 7, "category_id": 1, "bbox": [0, 0, 80, 60], "area": 4800, "iscrowd": 1},
            {"id": 3, "image_id": 3, "category_id": 1, "bbox": [5, 5, 0, 9], "area": 0, "iscrowd": 0},
            {"id": 4, "image_id": 3, "category_id": 1, "bbox": [5.5, 5, 20, 9], "area": 180, "iscrowd": 0},
        ],
    }


@pytest.fixture
def coco_folder(tmp_path: Path, coco_document: dict[str, Any]) -> Path:
    """The document above with its images, as `images/` and `instances.json`."""
    import cv2
    import numpy as np

    (tmp_path / "images").mkdir()
    for i, record in enumerate(coco_document["images"]):
        cv2.imwrite(str(tmp_path / "images" / record["file_name"]), np.full((60, 80, 3), 50 * i, np.uint8))
    (tmp_path / "instances.json").write_text(json.dumps(coco_document))
    return tmp_path
