"""The log of a run, and what the terminal shows."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from vertebra import InputError
from vertebra.tools.engine.log import NoLog, RunLog, Terminal, described
from vertebra.tools.engine.loop import StepReport


def write(folder: Path, start: int, steps: range) -> None:
    log = RunLog(folder, start)
    for step in steps:
        log.write(step, {"loss": step / 2, "losses": {"box": 1.0}})
    log.close()


def report(step: int, **changes: Any) -> StepReport:
    given = {"learning_rate": 0.01, "loss": 1.25, "losses": {}, "gradient_norm": 2.0, "images_per_second": 8.0}
    return StepReport(**{"step": step, **given, "waiting": 0.01, "memory": 3_210_000_000, "dropped": 0, **changes})


def shown(folder: Path) -> EventAccumulator:
    return EventAccumulator(str(folder / "tensorboard")).Reload()


def lines(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_lines_after_the_checkpoint_are_cut_on_resuming(tmp_path: Path) -> None:
    write(tmp_path, 0, range(1, 6))
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"step": 6, "lo')  # killed while writing
    write(tmp_path, 3, range(4, 8))
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3, 4, 5, 6, 7]
    assert lines(tmp_path)[0] == {"step": 1, "loss": 0.5, "losses": {"box": 1.0}}


def test_evaluations_are_known_and_those_after_the_checkpoint_are_not(tmp_path: Path) -> None:
    log = RunLog(tmp_path, 0)
    log.write(1, {"loss": 1.0})
    log.write(1, {"bbox": {"AP": 0.25}})
    log.write(2, {"loss": 1.0})
    log.write(2, {"bbox": {"AP": 0.5}})
    assert log.has(2, "bbox")
    log.close()
    again = RunLog(tmp_path, 1)
    assert again.has(1, "bbox")
    assert not again.has(1, "segm")
    assert not again.has(2, "bbox")
    assert again.evaluations == [{"step": 1, "bbox": {"AP": 0.25}}]
    again.close()


def test_a_log_with_garbage_is_read_up_to_it(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_bytes(b'{"step": 1}\n' + bytes(100) + b'\n{"step": 2}\n')
    write(tmp_path, 5, range(6, 7))
    assert [line["step"] for line in lines(tmp_path)] == [1, 6]


def test_tensorboard_has_the_scalars(tmp_path: Path) -> None:
    write(tmp_path, 0, range(1, 4))
    board = shown(tmp_path)
    assert set(board.Tags()["scalars"]) == {"loss", "losses/box"}
    assert [(event.step, event.value) for event in board.Scalars("loss")] == [(1, 0.5), (2, 1.0), (3, 1.5)]


@pytest.mark.parametrize("start", [0, 3])
def test_tensorboard_shows_no_step_twice(tmp_path: Path, start: int) -> None:
    """Of a run that was killed at step 5, at once, in the middle of an event, and goes on from step 0 or 3."""
    write(tmp_path, 0, range(1, 6))
    (file,) = (tmp_path / "tensorboard").iterdir()
    file.write_bytes(file.read_bytes()[:-7])
    write(tmp_path, start, range(start + 1, 8))
    assert [event.step for event in shown(tmp_path).Scalars("loss")] == [1, 2, 3, 4, 5, 6, 7]


def test_tensorboard_has_the_pictures(tmp_path: Path) -> None:
    picture = torch.arange(3 * 4 * 5, dtype=torch.uint8).reshape(3, 4, 5)
    log = RunLog(tmp_path, 0)
    log.pictures(2, "samples/one", picture)
    log.close()
    (event,) = shown(tmp_path).Images("samples/one")
    assert (event.step, event.height, event.width) == (2, 4, 5)
    found = np.asarray(Image.open(io.BytesIO(event.encoded_image_string)))
    assert torch.equal(torch.tensor(found).permute(2, 0, 1), picture)


def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    log = RunLog(tmp_path, 0)
    with open("/dev/full", "wb", buffering=0) as log._file:
        message = r"log\.jsonl could not be written: No space left on device \(.* MB are free\).*whole\. .*--resume"
        with pytest.raises(InputError, match=message):
            log.write(1, {"loss": 1.0})
    log.close()


def test_a_full_disk_under_tensorboard(tmp_path: Path) -> None:
    log = RunLog(tmp_path, 0)
    message = r"tensorboard could not be written: No space left"
    with (
        open("/dev/full", "wb", buffering=0) as log._board._records._writer.file,
        pytest.raises(InputError, match=message),
    ):
        log.write(1, {"loss": 1.0})
    log.close()


def test_a_log_that_cannot_be_opened(tmp_path: Path) -> None:
    (tmp_path / "tensorboard").write_text("a file")
    with pytest.raises(InputError, match="tensorboard could not be written: File exists"):
        RunLog(tmp_path, 0)


def test_processes_without_a_log(tmp_path: Path) -> None:
    """They can be asked the same."""
    here, log = NoLog(), RunLog(tmp_path, 0)
    for one in (here, log):
        one.write(1, {"metric": 1.0})
        one.pictures(1, "name", torch.zeros(3, 2, 2, dtype=torch.uint8))
        one.close()
    assert not here.has(1, "metric")
    assert here.evaluations == []
    assert {name for name in vars(RunLog) if name[0] != "_"} == {name for name in vars(NoLog) if name[0] != "_"}


def test_plain_lines_where_there_is_no_terminal() -> None:
    text = io.StringIO()
    with Terminal(Console(file=text, width=80), total=5, start=0, every=2, opening="compiling") as terminal:
        for step in range(1, 6):
            terminal.show(report(step))
    shown = text.getvalue().splitlines()
    assert [line.split("  ")[0] for line in shown] == ["compiling", "step 2/5", "step 4/5", "step 5/5"]
    assert "loss 1.250  lr 0.01  8.0 images/s  3.2 GB  left" in shown[1]


def test_waiting_is_shown_where_it_matters() -> None:
    assert "waiting" not in described(report(1, waiting=0.05))
    assert "8.0 images/s  waiting 23%  3.2 GB" in described(report(1, waiting=0.234))


def test_a_bar_in_a_terminal() -> None:
    text = io.StringIO()
    with Terminal(Console(file=text, width=120, force_terminal=True), 5, 0, 2, "compiling") as terminal:
        terminal.progress.refresh()
        assert "compiling" in text.getvalue()
        terminal.show(report(5))
    assert "step 5/5" in text.getvalue()
    assert "loss 1.250" in text.getvalue()
