"""Learning curves from a run's log."""

import json
from pathlib import Path

import pytest

from vertebra.tools.report.learning import read_learning, thinned


def test_from_a_log(tmp_path: Path) -> None:
    records = [
        {"step": 1, "loss": 2.0, "learning_rate": 0.1},
        {"step": 2, "loss": float("inf"), "learning_rate": 0.2},
        {"step": 2, "bbox": {"AP": 0.3, "AP50": 0.5}, "held_out": {"loss": 1.5}, "raw_bbox": {"AP": 0.2}},
    ]
    lines = [json.dumps(record) for record in records]
    (tmp_path / "log.jsonl").write_text("\n".join(lines) + '\n{"step": 3, "lo')
    learning = read_learning(tmp_path)
    assert learning is not None
    assert learning.loss == [(1, 2.0)]
    assert learning.learning_rate == [(1, 0.1), (2, 0.2)]
    assert learning.held_out == [(2, 1.5)]
    assert learning.metrics == {"bbox/AP": [(2, 0.3)], "raw_bbox/AP": [(2, 0.2)]}


def test_without_a_log_or_a_step(tmp_path: Path) -> None:
    assert read_learning(tmp_path) is None
    (tmp_path / "log.jsonl").write_text("")
    assert read_learning(tmp_path) is None


def test_long_curves_are_means_of_neighbours() -> None:
    points = [(step, float(step)) for step in range(1, 8)]
    assert thinned(points, 7) == points
    assert thinned(points, 3) == [(3, 2.0), (6, 5.0), (7, 7.0)]
    assert len(thinned([(step, 1.0) for step in range(12345)])) == pytest.approx(1000, abs=60)
