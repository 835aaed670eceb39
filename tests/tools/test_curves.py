"""Learning curves of runs."""

import json
from pathlib import Path

import pytest

from vertebra import InputError
from vertebra.tools.curves import headline, read_curves, smoothed


def write_log(folder: Path, *records: dict[str, object]) -> Path:
    folder.mkdir()
    (folder / "log.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder


def test_losses_and_metrics_by_step(tmp_path: Path) -> None:
    run = write_log(
        tmp_path / "run",
        {"step": 1, "loss": 3.0, "losses": {"a": 1.0, "b": 2.0}, "learning_rate": 0.1},
        {"step": 2, "loss": 2.0, "losses": {"a": 1.0, "b": 1.0}, "learning_rate": 0.1},
        {"step": 2, "bbox": {"AP": 0.25, "AP50": 0.5}},
    )
    assert read_curves(run) == ([(1, 3.0), (2, 2.0)], {"bbox/AP": [(2, 0.25)], "bbox/AP50": [(2, 0.5)]})


def test_the_headline_is_what_all_runs_have() -> None:
    boxes, masks = {"bbox/AP": []}, {"bbox/AP": [], "segm/AP": []}
    assert headline([masks, masks]) == "segm/AP"
    assert headline([boxes, masks]) == "bbox/AP"
    assert headline([{}, {"semantic/mIoU": []}]) == "semantic/mIoU"


def test_the_smoothed_loss_is_the_mean_over_a_tenth() -> None:
    assert smoothed([3.0]) == [3.0]
    assert smoothed([float(i) for i in range(20)])[:3] == [0.0, 0.5, 1.5]


def test_folders_that_are_no_runs(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is not the folder of a run: it has no log\.jsonl"):
        read_curves(tmp_path)
    with pytest.raises(InputError, match="holds no step yet"):
        read_curves(write_log(tmp_path / "run"))
