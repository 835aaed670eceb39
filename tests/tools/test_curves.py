"""Learning curves of runs."""

import json
from pathlib import Path
from typing import Any

import pytest

from vertebra import InputError
from vertebra.tools import curves as module
from vertebra.tools.curves import curves_of_run, headline, read_curves, smoothed


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


def test_smoothing_many_steps_takes_no_time() -> None:
    """The means of windows of 100 000 of a million steps, where each sum by itself would take an hour."""
    assert smoothed([2.0] * 1_000_000) == [2.0] * 1_000_000


def test_the_curves_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its losses, of both kinds, what it is judged by with and without averaged weights, and the learning rate."""
    run = write_log(
        tmp_path / "run",
        {"step": 1, "loss": 3.0, "learning_rate": 0.1},
        {"step": 2, "loss": 2.0, "learning_rate": 0.2},
        {"step": 2, "seconds": 1.5, "bbox": {"AP": 0.25}, "held_out": {"loss": 4.0}, "raw_bbox": {"AP": 0.125}},
    )
    with (run / "log.jsonl").open("a") as file:
        file.write('{"step": 3, "lo')  # killed while writing
    drawn: list[dict[str, list[float]]] = []

    def save(figure: Any, panels: Any, path: Path) -> None:
        written(figure, panels, path)
        drawn.extend({line.get_label(): list(line.get_ydata()) for line in panel.lines} for panel in panels)

    written = module._save
    monkeypatch.setattr(module, "_save", save)
    curves_of_run(run)
    losses, metrics, rates = drawn
    assert [3.0, 2.0] in losses.values()
    assert losses["held-out: 4.000"] == [4.0]
    assert metrics == {"bbox/AP: 0.250": [0.25], "bbox/AP, weights not averaged: 0.125": [0.125]}
    assert rates == {"now 0.2": [0.1, 0.2]}
    assert (run / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_the_curves_of_a_run_without_steps_or_evaluations(tmp_path: Path) -> None:
    curves_of_run(write_log(tmp_path / "none", {"step": 2, "bbox": {"AP": 0.25}}))
    assert not (tmp_path / "none" / "curves.png").exists()
    curves_of_run(write_log(tmp_path / "short", {"step": 1, "loss": 3.0, "learning_rate": 0.1}))
    assert (tmp_path / "short" / "curves.png").exists()


def test_curves_that_cannot_be_written(tmp_path: Path) -> None:
    run = write_log(tmp_path / "run", {"step": 1, "loss": 3.0, "learning_rate": 0.1})
    (run / "curves.png").symlink_to("/dev/full")
    with pytest.raises(InputError, match=r"curves\.png could not be written: No space left on device; make room"):
        curves_of_run(run)


def test_folders_that_are_no_runs(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is not the folder of a run: it has no log\.jsonl"):
        read_curves(tmp_path)
    with pytest.raises(InputError, match="holds no step yet"):
        read_curves(write_log(tmp_path / "run"))
