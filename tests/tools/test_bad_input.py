"""What people get wrong: one clear line each, exit status 2, no traceback, nothing half-written."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

Command = Callable[..., Any]


def refused(done: Any, *parts: str) -> None:
    """Check status, and that standard error is one line which holds all the parts."""
    assert done.status == 2, (done.out, done.err)
    lines = done.err.strip().splitlines()
    assert len(lines) == 1, done.err
    assert lines[0].startswith("error: ")
    for part in parts:
        assert part in lines[0]


def broken_data(workplace: Path, shapes: Path) -> Path:
    """Copy the generated set to a place where it may be broken, and point data.yaml there."""
    folder = workplace / "broken"
    for path in shapes.rglob("*"):
        if path.is_file():
            target = folder / path.relative_to(shapes)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    (workplace / "data.yaml").write_text((workplace / "data.yaml").read_text().replace(str(shapes), str(folder)))
    return folder


@pytest.mark.parametrize(
    ("extra", "parts"),
    [
        (["--backbone", "resnet5O"], ["unknown backbone 'resnet5O'", "Did you mean 'resnet50'?"]),
        (["--head", "fasterrcnn"], ["unknown head 'fasterrcnn'", "Did you mean 'faster_rcnn'?"]),
        (["--set", "optim.lrr=1"], ["unknown key 'optim.lrr'", "Did you mean 'optim.lr'?"]),
        (["--data-root", "/nowhere"], ["no data set at /nowhere", "--data-root"]),
        (["--data", "absent.yaml"], ["no data set at absent.yaml"]),
        (["--schedule", "5x"], ["unknown schedule '5x'"]),
        (["--import", "absent.py"], ["no file to import at", "absent.py"]),
        (["--import", "no_such_module"], ["importing no_such_module failed", "No module named"]),
        (["--weights", "absent.pt"], ["no weights at absent.pt"]),
        (["--set", "backbone.norm=bacth"], ["unknown norm 'bacth'", "Did you mean 'batch'?"]),
        (["--set", "backbone.output_stride=16"], ["'tinynet' does not take output_stride=16"]),
        (["--set", "engine.device=cuda:99"], ["engine.device='cuda:99' is not on this machine"]),
        (["--set", "transforms.preset=flip"], ["unknown transforms.preset 'flip'", "Did you mean 'flips'?"]),
        (["--set", "schedule.decay=cosin"], ["unknown schedule.decay 'cosin'"]),
    ],
)
def test_train_refuses(
    cli: Command, workplace: Path, arguments: list[object], extra: list[str], parts: list[str]
) -> None:
    refused(cli(*arguments, *extra), *parts)
    assert not (workplace / "runs").exists()


def test_a_folder_that_is_taken(cli: Command, workplace: Path, arguments: list[object]) -> None:
    (workplace / "taken").mkdir()
    (workplace / "taken" / "file").touch()
    refused(cli(*arguments, "--output", "taken"), "taken exists already", "--resume taken")
    assert len(list((workplace / "taken").iterdir())) == 1


def test_json_that_is_not_coco(cli: Command, workplace: Path, shapes: Path, arguments: list[object]) -> None:
    path = broken_data(workplace, shapes) / "annotations" / "train.json"
    for content, part in (("{}", "has no list 'images', 'annotations', 'categories'"), ("[1", "is not JSON")):
        path.write_text(content)
        refused(cli(*arguments), str(path), part)
    path.unlink()
    refused(cli(*arguments), f"no annotations at {path}")
    assert not (workplace / "runs").exists()


def test_a_missing_image(cli: Command, workplace: Path, shapes: Path, arguments: list[object]) -> None:
    (broken_data(workplace, shapes) / "train" / "000003.png").unlink()
    refused(cli(*arguments), "1 of 8 images are not in", "'000003.png'")
    assert not (workplace / "runs").exists()


@pytest.mark.parametrize("workers", [0, 1])
def test_a_truncated_image(cli: Command, workplace: Path, shapes: Path, arguments: list[object], workers: int) -> None:
    for path in (broken_data(workplace, shapes) / "train").iterdir():
        path.write_bytes(path.read_bytes()[:300])
    refused(cli(*arguments, "--set", f"engine.workers={workers}"), ".png is cut short or damaged", "replace the file")
    assert not (workplace / "runs" / "small").exists()


def test_splits_with_other_categories(cli: Command, workplace: Path, shapes: Path, arguments: list[object]) -> None:
    path = broken_data(workplace, shapes) / "annotations" / "val.json"
    document = json.loads(path.read_text())
    document["categories"][0]["name"] = "ring"
    path.write_text(json.dumps(document))
    refused(cli(*arguments), "they differ in circle, ring")


def test_own_code_that_fails(cli: Command, workplace: Path, arguments: list[object]) -> None:
    (workplace / "faulty.py").write_text("import vertebra\n\nundefined_name\n")
    refused(cli(*arguments, "--import", "faulty.py"), "faulty.py:3", "NameError")


def test_resume_goes_alone(cli: Command, workplace: Path) -> None:
    refused(cli("train", "--resume", "runs/x", "--backbone", "resnet18"), "--backbone cannot go with it")
    refused(cli("train", "--resume", "runs/x"), "runs/x is not the folder of a run: it has no config.yaml")


def test_a_checkpoint_of_another_model(cli: Command, workplace: Path, arguments: list[object]) -> None:
    assert cli(*arguments, "--set", "schedule.epochs=0.25").status == 0
    assert cli(*arguments, "--set", "schedule.epochs=0.25", "--set", "head.fpn_channels=8").status == 0
    one, other = Path("runs/small"), Path("runs/small-2/checkpoint.pt")
    torch.save({"weight": torch.ones(1)}, workplace / "other.pt")
    for command in (["evaluate", one], ["predict", one, "small.yaml"]):
        refused(cli(*command, "--checkpoint", other), "is the checkpoint of another model than runs/small's", "shape")
        refused(cli(*command, "--checkpoint", "other.pt"), "other.pt is not the checkpoint of a run")
        refused(cli(*command, "--checkpoint", "absent.pt"), "no checkpoint at absent.pt")
    assert not (workplace / "predictions").exists()
    refused(cli("evaluate", one, "--split", "test"), "no split 'test': it names no data.test.images")
    refused(cli("evaluate", one, "--split", "vall"), "unknown split 'vall'. Did you mean 'val'?")
    refused(cli("predict", one, "absent.jpg"), "no image or folder at absent.jpg")


def test_unknown_verbs_and_options(cli: Command) -> None:
    for arguments in (["trian"], ["train", "--bakcbone", "resnet18"]):
        assert cli(*arguments).status == 2


def test_list_without_a_match(cli: Command) -> None:
    refused(cli("backbones", "list", "nothing*"), "no backbone matches 'nothing*'")
