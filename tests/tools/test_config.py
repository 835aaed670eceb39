"""Settings: how the four choices compose, what overrides what, and errors that name the nearest key."""

from pathlib import Path
from typing import Any

import pytest

import vertebra
from vertebra.tools.config import compose, read_config
from vertebra.tools.settings import Config


def settings(overrides: tuple[str, ...] = (), run_file: str | None = None, **choices: str) -> Config:
    return compose(run_file, choices, (), overrides)


def test_resolved_settings_reload_to_the_same_object(tmp_path: Path) -> None:
    config = compose("quickstart", {"backbone": "resnet34"}, ("my.module",), ["optim.clip_norm=5"])
    (tmp_path / "config.yaml").write_text(config.to_yaml())
    assert read_config(tmp_path / "config.yaml") == config


def test_the_axes_compose() -> None:
    config = settings(head="faster_rcnn", backbone="resnet34", data="coco", schedule="1x")
    assert (config.choices.backbone, config.data.train.images) == ("resnet34", "train2017")
    # mmdetection's 1x: 12 epochs, steps at 8 and 11, batch 16, learning rate 0.02.
    assert (config.schedule.epochs, config.schedule.milestones) == (12, (8, 11))
    assert (config.optim.batch_size, config.optim.lr) == (16, 0.02)
    assert config.head.train_size is None
    assert config.head.test_size == (800, 1333)


def test_the_model_evaluates_at_the_size_that_it_trains_at() -> None:
    assert settings(("transforms.short=320", "transforms.longest=500")).head.test_size == (320, 500)


def test_the_command_line_overrides_the_run_file_and_that_the_axes(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("backbone: resnet18\nschedule: 1x\nset: {optim.lr: 0.5, optim.momentum: 0.5}\n")
    config = settings(("optim.momentum=0.7",), str(path), backbone="resnet34")
    assert config.choices.backbone == "resnet34"
    assert (config.optim.lr, config.optim.momentum, config.optim.batch_size) == (0.5, 0.7, 16)


def test_of_two_lengths_the_last_that_is_set_stands(tmp_path: Path) -> None:
    def length_of(*overrides: str) -> tuple[float, int | None]:
        schedule = settings(overrides, schedule="seg_20k").schedule
        return schedule.epochs, schedule.steps

    assert length_of()[1] == 20000
    assert length_of("schedule.epochs=3") == (3, None)
    assert length_of("schedule.epochs=3", "schedule.steps=50") == (3, 50)
    (tmp_path / "config.yaml").write_text(settings(schedule="seg_20k").to_yaml())
    assert read_config(tmp_path / "config.yaml").schedule.steps == 20000
    assert read_config(tmp_path / "config.yaml", ["schedule.epochs=3"]).schedule.steps is None


def test_own_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "data.yaml").write_text("data:\n  root: here\n  train: {images: a, annotations: b}\n")
    (tmp_path / "slow.yaml").write_text("schedule: {epochs: 99}\n")
    monkeypatch.chdir(tmp_path)
    config = settings(data="mine/data.yaml", schedule="slow.yaml")
    assert config.data.root == str(tmp_path / "mine" / "here")
    assert config.data.shapes is None
    assert config.schedule.epochs == 99


def test_another_data_set_takes_the_place_of_a_runs_own(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(settings(("optim.lr=0.5",), data="shapes").to_yaml())
    config = read_config(tmp_path / "config.yaml", ["data.root=/elsewhere"], data="coco")
    assert config.data.shapes is None
    assert (config.data.root, config.data.val.images) == ("/elsewhere", "val2017")
    assert (config.optim.lr, config.choices.data) == (0.5, "coco")


@pytest.mark.parametrize(
    "run", sorted((Path(__file__).parents[2] / "configs" / "runs").glob("*.yaml")), ids=lambda p: p.stem
)
def test_every_run_file_composes(run: Path) -> None:
    assert isinstance(settings(run_file=run.stem), Config)
    assert settings(run_file=run.stem) == settings(run_file=str(run))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optim.lrr=1", r"--set optim.lrr=1: unknown key 'optim.lrr'\. Did you mean 'optim.lr'\?"),
        ("head.box_score_tresh=1", r"Did you mean 'head.box_score_thresh'\?"),
        ("lr=1", r"Did you mean 'optim.lr'\?"),
        ("fast=1", "unknown key 'fast'. Sections: choices, backbone, head, data"),
        ("engine.fast=1", "unknown key 'engine.fast'. In engine: device, precision, compile"),
        ("optim.epochs=1", r"Did you mean 'schedule.epochs'\?"),
        ("optim.lr=fast", "optim.lr Value 'fast' of type 'str' could not be converted to Float"),
        ("head.test_size=[1,2,3]", "length 3"),
        ("optim.lr", "write KEY=VALUE"),
        ("engine.device=[1", "cannot be read"),
        ("optim.batch_size=0", "optim.batch_size=0; it must be at least 1"),
        ("schedule.epochs=-1", "schedule.epochs=-1"),
        ("engine.evaluate_every=0", "it counts epochs"),
    ],
)
def test_bad_overrides(override: str, message: str) -> None:
    with pytest.raises(vertebra.InputError, match=message):
        settings((override,))


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"head": "faster_rccn"}, r"unknown head 'faster_rccn'\. Did you mean 'faster_rcnn'\?"),
        ({"data": "cocoo"}, r"unknown data set 'cocoo'\. Did you mean 'coco'\? Known: .*shapes"),
        ({"data": "../heads/faster_rcnn"}, "unknown data set"),
        ({"schedule": "absent.yaml"}, r"no schedule at absent\.yaml"),
        ({"run_file": "quickstrat"}, r"unknown run file 'quickstrat'\. Did you mean 'quickstart'"),
    ],
)
def test_bad_choices(choices: dict[str, Any], message: str) -> None:
    with pytest.raises(vertebra.InputError, match=message):
        settings(**choices)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("optim: {lr: 1}\n", r"unknown key 'optim'; a run file has head, backbone, data, schedule, import, set"),
        ("set: [1]\n", "`set` must map keys"),
        ("set: {optim.lrr: 1}\n", r"run\.yaml: set: optim\.lrr: unknown key 'optim\.lrr'\. Did you mean 'optim\.lr'"),
        ("- a\n", "holds no settings"),
        ("a: [\n", "cannot be read as YAML"),
    ],
)
def test_bad_run_files(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(content)
    with pytest.raises(vertebra.InputError, match=message):
        settings(run_file=str(path))
