"""What follows from the batch size: by hand, through the files that use it, and until a number takes its place."""

from pathlib import Path

import pytest

import vertebra
from vertebra.tools.config import compose, read_config
from vertebra.tools.scaling import root_scaled, scaled, steps
from vertebra.tools.settings import Config


def settings(*overrides: str, schedule: str = "1x", run_file: str | None = None) -> Config:
    return compose(run_file, {"schedule": schedule} if run_file is None else {}, (), overrides)


def test_rules_by_hand() -> None:
    assert scaled(0.02, 16, 4) == 0.005  # a quarter of the images, a quarter of the rate
    assert root_scaled(0.001, 4, 16) == 0.002  # four times the images, twice the rate
    assert steps(90000, 16, 4) == 360000  # as many images in all
    assert steps(90000, 16, 64) == 22500
    assert steps(1, 1, 16) == 1


def test_the_rate_follows_the_batch_size_and_gives_way_to_a_number() -> None:
    assert settings().optim.lr == 0.02
    assert settings("optim.batch_size=4").optim.lr == 0.005
    assert settings("optim.batch_size=4", "optim.lr=0.3").optim.lr == 0.3
    assert settings("optim.lr=0.3", "optim.batch_size=4").optim.lr == 0.3


def test_the_length_in_steps_follows_the_batch_size() -> None:
    schedule = settings("optim.batch_size=32", run_file="detectron2_faster_rcnn_R_50_FPN_1x").schedule
    assert (schedule.steps, schedule.milestones) == (45000, (30000, 40000))
    assert settings("optim.batch_size=4", "schedule.steps=7", schedule="seg_20k").schedule.steps == 7


def test_the_rate_of_adamw_follows_by_the_root() -> None:
    rates = [settings(f"optim.batch_size={size}", run_file="quickstart").optim.lr for size in (4, 16)]
    assert rates == pytest.approx([0.001, 0.002])


def test_a_run_records_plain_numbers(tmp_path: Path) -> None:
    config = settings("optim.batch_size=4", schedule="seg_20k")
    text = config.to_yaml()
    assert "${" not in text
    (tmp_path / "config.yaml").write_text(text)
    assert read_config(tmp_path / "config.yaml") == config
    # The run's own numbers no longer follow: what it was trained with is what it records.
    assert read_config(tmp_path / "config.yaml", ["optim.batch_size=8"]).optim.lr == 0.0025


@pytest.mark.parametrize("rule", ["${scaled:0.02}", "${scaled:fast,16}", "${scaled:0.02,0}"])
def test_a_rule_that_is_written_wrongly(tmp_path: Path, rule: str) -> None:
    (tmp_path / "mine.yaml").write_text(f"optim: {{lr: '{rule}'}}\n")
    with pytest.raises(vertebra.InputError, match="write two numbers, a value and its batch size"):
        settings(schedule=str(tmp_path / "mine.yaml"))
