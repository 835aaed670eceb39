"""Batches that could not be learnt from, from the run that skips them to the command that looks into them."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from vertebra.tools.engine import learner

Command = Callable[..., Any]


def only_file(folder: str) -> Path:
    (path,) = Path(folder).iterdir()
    return path


def test_a_step_that_is_computed_again_is_the_same(
    cli: Command, workplace: Path, arguments: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With masks, random samples of proposals, and parts of a batch; its losses are finite, and only taken for odd."""
    settings = ["--set", "optim.accumulation=2", "--set", "engine.skip_limit=0", "--head", "mask_rcnn"]
    with monkeypatch.context() as patched:
        patched.setattr(learner, "math", SimpleNamespace(isfinite=lambda value: False))
        done = cli(*arguments, *settings, "--output", "run")
    assert done.status == 2
    assert "1 of 1 steps were skipped" in done.err
    done = cli("replay", only_file("run/trouble"))
    assert done.status == 0, done.err
    about, then, now, verdict = done.out.splitlines()
    assert about.startswith(f"step 1 of {workplace / 'run'}, on cpu in float32; image ids ")
    assert "loss_mask" in then
    assert then.split()[2:] == now.split()[2:]
    assert verdict.startswith("all is finite: ")


def test_the_first_module_that_goes_wrong_is_named(cli: Command, workplace: Path, arguments: list[object]) -> None:
    """The weights of a run are beyond all bounds after its first step; then a sound model has one odd weight."""
    settings = ["--set", "optim.lr=1e30", "--set", "schedule.warmup_steps=0", "--set", "engine.skip_limit=0"]
    done = cli(*arguments, *settings, "--output", "run")
    assert done.status == 2
    assert "1 of 2 steps were skipped" in done.err
    path = only_file("run/trouble")
    done = cli("replay", path)
    assert done.status == 0, done.err
    table = done.out.partition("first that is not finite:\n")[2].splitlines()
    assert table[1].startswith("output backbone.body.")

    content = torch.load(path, weights_only=True)
    for name, value in content["model"].items():
        if value.is_floating_point():
            value.fill_(0.5 if name.endswith("running_var") else 0.01)
    content["model"]["rpn.head.conv.0.0.bias"][3] = torch.inf
    torch.save(content, path)
    table = cli("replay", path).out.partition("first that is not finite:\n")[2].splitlines()
    assert [line.split()[:2] for line in table[1:3]] == [
        ["weight", "rpn.head.conv.0.0.bias"],
        ["output", "rpn.head.conv.0.0"],
    ]
    assert table[2].split()[2] == "Conv2d"


def test_files_that_are_no_batches(cli: Command, tmp_path: Path) -> None:
    torch.save({"model": {}}, tmp_path / "other.pt")
    assert (
        cli("replay", tmp_path / "other.pt").err
        == f"error: {tmp_path / 'other.pt'} is no batch that a run has saved; give one of RUN/trouble/\n"
    )
    assert "no file at" in cli("replay", tmp_path / "none.pt").err
