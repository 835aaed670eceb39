"""A run from the command line: trained, evaluated, resumed, predicted with, on a backbone of one's own."""

import errno
import json
import re
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pycocotools.coco import COCO

import vertebra
from vertebra.backbones import registry
from vertebra.tools import session
from vertebra.tools.engine.loop import StepReport

Command = Callable[..., Any]


def log(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def losses(run: Path) -> list[tuple[int, float]]:
    return [(record["step"], record["loss"]) for record in log(run) if "loss" in record]


def weights(run: Path) -> dict[str, torch.Tensor]:
    return torch.load(run / "checkpoint.pt", weights_only=True)["model"]


@pytest.fixture
def trained(cli: Command, workplace: Path, arguments: list[object]) -> Path:
    """A run of eight steps on the generated set."""
    done = cli(*arguments)
    assert done.status == 0, done.err
    return Path("runs/small")


def test_a_run_leaves_everything_that_the_readme_lists(trained: Path, shapes: Path) -> None:
    listed = re.findall(r"^\| `([\w./`, ]+)` \|", (Path(__file__).parents[2] / "README.md").read_text(), re.MULTILINE)
    names = [name for cell in listed for name in cell.split("`, `") if "." in name or "/" in name]
    assert "evaluation/metrics.json" in names
    assert all((trained / name).exists() for name in names)
    assert len(list((trained / "evaluation" / "pictures").iterdir())) == 2
    assert [step for step, _ in losses(trained)] == list(range(1, 9))
    assert set(log(trained)[-1]["bbox"]) == {
        "AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl"
    }  # fmt: skip
    checkpoint = torch.load(trained / "checkpoint.pt", weights_only=True)
    assert checkpoint["step"] == 8
    assert checkpoint["categories"] == [[1, "circle"], [3, "square"], [4, "triangle"], [7, "star"]]
    results = json.loads((trained / "evaluation" / "predictions.json").read_text())
    assert results
    assert {result["category_id"] for result in results} <= {1, 3, 4, 7}
    COCO(str(shapes / "annotations" / "val.json")).loadRes(results)


def test_resume_equals_the_uninterrupted_run_bit_for_bit(
    cli: Command, trained: Path, arguments: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C in the middle of an epoch, with momentum, warm-up and random sampling under way."""
    original = session.step_record

    def interrupt(report: StepReport, steps_per_epoch: float) -> dict[str, Any]:
        if report.step == 3:
            signal.raise_signal(signal.SIGINT)
        return original(report, steps_per_epoch)

    with monkeypatch.context() as patch:
        patch.setattr(session, "step_record", interrupt)
        done = cli(*arguments, "--output", "runs/cut")
    assert done.status == 130
    assert "stopped after step 3 of 8; continue with `vertebra train --resume runs/cut`" in done.err
    done = cli("train", "--resume", "runs/cut")
    assert done.status == 0, done.err
    cut = Path("runs/cut")
    assert losses(cut) == losses(trained)
    expected = weights(trained)
    assert all(torch.equal(value, expected[key]) for key, value in weights(cut).items())
    assert (cut / "evaluation/predictions.json").read_text() == (trained / "evaluation/predictions.json").read_text()


def test_a_finished_run_says_so_and_can_be_extended(cli: Command, trained: Path) -> None:
    done = cli("train", "--resume", trained)
    assert done.status == 2
    assert "has taken all its 8 steps; to go on, extend it: --set schedule.epochs=4" in done.err
    done = cli("train", "--resume", trained, "--set", "schedule.epochs=3")
    assert done.status == 0, done.err
    assert [step for step, _ in losses(trained)] == list(range(1, 13))


def test_a_folder_that_cannot_be_written_to(
    cli: Command, workplace: Path, arguments: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(run: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system", "runs/mine")

    monkeypatch.setattr(session, "write_config", refuse)
    done = cli(*arguments)
    assert done.status == 2
    assert done.err.splitlines()[-1] == (
        "error: runs/mine: Read-only file system. Make the folder one that can be written to, and start again"
    )


def test_own_backbone_is_found_again(
    cli: Command, trained: Path, shapes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a new process has it: nothing registered but our own, the file not imported yet."""
    fresh = {name: entry for name, entry in registry._REGISTRY.items() if name != "tinynet"}
    monkeypatch.setattr(registry, "_REGISTRY", fresh)
    monkeypatch.delitem(sys.modules, "my_backbone")
    assert vertebra.Predictor(trained)(shapes / "val" / "000000.png")["boxes"].shape[1] == 4
    for command in (("evaluate", trained), ("predict", trained, shapes / "val"), ("backbones", "list", "tiny*")):
        done = cli(*command)
        assert done.status == 0, done.err


def test_evaluate_gives_the_numbers_of_the_run(cli: Command, trained: Path) -> None:
    before = json.loads((trained / "evaluation" / "metrics.json").read_text())
    shutil.rmtree(trained / "evaluation")
    done = cli("evaluate", trained)
    assert done.status == 0, done.err
    assert done.out.count("Average Precision") == done.out.count("Average Recall") == 6
    assert json.loads((trained / "evaluation" / "metrics.json").read_text()) == before


def test_evaluate_on_another_split_writes_beside(cli: Command, trained: Path) -> None:
    done = cli("evaluate", trained, "--split", "train", "--set", "engine.pictures=1")
    assert done.status == 0, done.err
    assert len(list((trained / "evaluation-train" / "pictures").iterdir())) == 1


def test_predict_writes_pictures_and_results(cli: Command, trained: Path, shapes: Path, tmp_path: Path) -> None:
    images = [shapes / "val" / "000000.png", shapes / "train" / "000000.png"]
    done = cli("predict", trained, *images, "--output", tmp_path / "found", "--score", "0")
    assert done.status == 0, done.err
    assert {path.name for path in (tmp_path / "found").iterdir()} == {"000000.jpg", "000000-2.jpg", "predictions.json"}
    results = json.loads((tmp_path / "found" / "predictions.json").read_text())
    found = vertebra.Predictor(trained)(images[1])
    second = [result for result in results if result["image_id"] == 2]
    assert [result["score"] for result in second] == pytest.approx(found["scores"].tolist())
    assert {result["file_name"] for result in second} == {str(images[1])}
    assert found["names"] == [{1: "circle", 3: "square", 4: "triangle", 7: "star"}[r["category_id"]] for r in second]


def test_weights_of_a_run_start_another(cli: Command, trained: Path, arguments: list[object]) -> None:
    done = cli(*arguments, "--weights", trained, "--output", "runs/second", "--set", "optim.lr=0")
    assert done.status == 0, done.err
    assert "0 kept as they were" in done.out
    first, second = weights(trained), weights(Path("runs/second"))
    assert all(torch.equal(second[key], value) for key, value in first.items() if key.endswith("weight"))


def test_evaluation_during_training(cli: Command, workplace: Path, arguments: list[object]) -> None:
    done = cli(*arguments, "--set", "engine.evaluate_every=1", "--set", "engine.checkpoint_every=3")
    assert done.status == 0, done.err
    assert [record["step"] for record in log(Path("runs/small")) if "bbox" in record] == [4, 8]


def test_default_folders_are_numbered(cli: Command, workplace: Path, arguments: list[object]) -> None:
    for _ in range(2):
        assert cli(*arguments, "--set", "schedule.epochs=0.25").status == 0
    assert {path.name for path in Path("runs").iterdir()} == {"small", "small-2"}
