"""The log of a run, and what the terminal shows."""

import io
import json
from pathlib import Path

from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from vertebra.tools.engine.log import RunLog, Terminal
from vertebra.tools.engine.loop import StepReport


def write(folder: Path, start: int, steps: range) -> None:
    log = RunLog(folder, start)
    for step in steps:
        log.write(step, {"loss": step / 2, "losses": {"box": 1.0}})
    log.close()


def lines(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_lines_after_the_checkpoint_are_cut_on_resuming(tmp_path: Path) -> None:
    write(tmp_path, 0, range(1, 6))
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"step": 6, "lo')  # killed while writing
    write(tmp_path, 3, range(4, 8))
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3, 4, 5, 6, 7]
    assert lines(tmp_path)[0] == {"step": 1, "loss": 0.5, "losses": {"box": 1.0}}


def test_tensorboard_has_the_scalars(tmp_path: Path) -> None:
    write(tmp_path, 0, range(1, 4))
    board = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert set(board.Tags()["scalars"]) == {"loss", "losses/box"}
    assert [(event.step, event.value) for event in board.Scalars("loss")] == [(1, 0.5), (2, 1.0), (3, 1.5)]


def test_plain_lines_where_there_is_no_terminal() -> None:
    text = io.StringIO()
    with Terminal(Console(file=text, width=120), total=5, start=0, every=2) as terminal:
        for step in range(1, 6):
            terminal.show(StepReport(step, 0.01, 1.25, {}, 8.0, 0))
    shown = text.getvalue().splitlines()
    assert [line.split("  ")[0] for line in shown] == ["step 2/5", "step 4/5", "step 5/5"]
    assert "loss 1.250  lr 0.01  8.0 images/s  left" in shown[0]


def test_a_bar_in_a_terminal() -> None:
    text = io.StringIO()
    with Terminal(Console(file=text, width=120, force_terminal=True), total=5, start=0, every=2) as terminal:
        terminal.show(StepReport(5, 0.01, 1.25, {}, 8.0, 0))
    assert "step 5/5" in text.getvalue()
    assert "loss 1.250" in text.getvalue()
