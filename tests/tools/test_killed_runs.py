"""A run that is killed again and again, and goes on each time, equals the run that was left alone, bit for bit.

This file is a program too: it starts `vertebra` as often as it is told in processes that it forks, for the imports are
most of the time that a start takes, and kills them when it is told. The run that is left alone has a process of its
own, whose strings have other hashes.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest

SETTINGS = (
    "optim.accumulation=2", "optim.ema=0.9", "engine.checkpoint_every=3", "engine.loss_images=2", "engine.pictures=1",
    "engine.precision=float32",
)  # fmt: skip
BY_THE_CLOCK = ("images_per_second", "waiting", "memory", "evaluation_seconds")
PRELOADED = (
    "albumentations", "cv2", "matplotlib.pyplot", "pycocotools.cocoeval", "torch.utils.tensorboard",
    "vertebra.tools.session",
)  # fmt: skip


@dataclass(frozen=True)
class Kill:
    """Send a signal `delay` seconds after the process has written to the log, and there are so many records in it.

    With 0 records, while it starts: so many seconds after that it was told to.
    """

    signal: int
    records: int
    delay: float


@dataclass(frozen=True)
class Told:
    """What became of a run: the status of each of its processes, as `subprocess` has them, and what they printed.

    moments: when the log first had 1, 2, … records, in seconds after the last start.
    """

    ends: list[int]
    prints: list[str]
    moments: list[float]


def started(plans: Sequence[tuple[Sequence[str], Sequence[Kill]]], hashes: int) -> list[Told]:
    """Run `vertebra` with each of these arguments until it has been killed as often as planned, and then to its end."""
    told = [(list(arguments), [asdict(kill) for kill in kills]) for arguments, kills in plans]
    done = subprocess.run(
        [sys.executable, __file__, json.dumps(told)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "NO_ALBUMENTATIONS_UPDATE": "1", "PYTHONHASHSEED": str(hashes)},
    )
    assert done.returncode == 0, done.stderr
    return [Told(**found) for found in json.loads(done.stdout)]


def arguments(my_backbone: Path, output: str, epochs: int, every: float, workers: int = 0) -> list[str]:
    """Return the options of a run of so many epochs of 4 steps, with evaluations in the middle of them."""
    fixed = ["train", "small.yaml", "--data", "data.yaml", "--import", str(my_backbone), "--auto-resume"]
    settings = (
        *SETTINGS, f"schedule.epochs={epochs}", f"engine.evaluate_every={every}", f"engine.workers={workers}",
    )  # fmt: skip
    return [*fixed, "--output", output, *(part for setting in settings for part in ("--set", setting))]


def random_kills(alone: Told, signals: Sequence[int], seed: int) -> list[Kill]:
    """Plan kills at random moments of the time that the run took alone; a fifth of them in its starts.

    Evaluations in training are included, the one at the end is not: there a kill may come too late.
    """
    draw = random.Random(seed)
    kills = []
    moments = sorted(draw.uniform(0, alone.moments[-2]) for _ in signals)
    for number, moment in zip(draw.sample(signals, len(signals)), moments, strict=True):
        records = sum(passed <= moment for passed in alone.moments)
        if records == 0 or draw.random() < 0.2:
            kills.append(Kill(number, 0, draw.uniform(0, alone.moments[0])))
        else:
            kills.append(Kill(number, records, moment - alone.moments[records - 1]))
    return kills


def trace(run: Path) -> list[dict[str, Any]]:
    records = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in record.items() if key not in BY_THE_CLOCK} for record in records]


def same(one: Any, other: Any) -> bool:
    import torch

    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    if isinstance(one, list):
        return len(one) == len(other) and all(same(*pair) for pair in zip(one, other, strict=True))
    return bool(one == other)


def expect_equal(one: Path, other: Path) -> None:
    """Compare all that two runs have left but for the time it took."""
    import torch

    assert trace(one) == trace(other)
    for name in ("checkpoint.pt", "best.pt"):
        states = [torch.load(run / name, weights_only=True) for run in (one, other)]
        for key in ("model", "ema", "step", "position", "skipped"):
            assert same(*(state[key] for state in states)), (name, key)
        # Its groups have the learning rate of the step before, which is set anew in each step.
        assert same(*(state["optimiser"]["state"] for state in states)), name
    for name in ("evaluation/predictions.json", "evaluation/metrics.json"):
        assert (one / name).read_text() == (other / name).read_text()


def test_a_killed_run_goes_on(workplace: Path, my_backbone: Path) -> None:
    """Once by SIGTERM in the middle of an epoch, and once by SIGKILL between two checkpoints."""
    kills = [Kill(signal.SIGTERM, 2, 0.01), Kill(signal.SIGKILL, 5, 0.01)]
    plans = [(arguments(my_backbone, name, 2, 1.25), cuts) for name, cuts in (("alone", []), ("killed", kills))]
    alone, killed = started(plans, hashes=1)
    assert (alone.ends, killed.ends) == ([0], [128 + signal.SIGTERM, -signal.SIGKILL, 0]), killed.prints
    assert "continue with `vertebra train --resume killed`" in killed.prints[0]
    assert all("continuing killed from step " in text for text in killed.prints[1:])
    assert [record["step"] for record in trace(Path("alone")) if "loss" in record] == list(range(1, 9))
    expect_equal(Path("alone"), Path("killed"))


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_forty_kills_change_nothing(workplace: Path, my_backbone: Path, workers: int) -> None:
    """Twenty by SIGKILL and twenty by SIGTERM, at random moments; the run that is left alone has no workers."""
    (alone,) = started([(arguments(my_backbone, "alone", 15, 3.25), [])], hashes=1)
    kills = random_kills(alone, [signal.SIGKILL, signal.SIGTERM] * 20, seed=workers)
    (killed,) = started([(arguments(my_backbone, "killed", 15, 3.25, workers), kills)], hashes=2)
    *ends, last = killed.ends
    assert last == 0, killed.prints[-1]
    for kill, end, text in zip(kills, ends, killed.prints, strict=False):
        # While it starts, it has nothing to save, and answers SIGTERM as any program does.
        expected = (-signal.SIGKILL,) if kill.signal == signal.SIGKILL else (-signal.SIGTERM, 128 + signal.SIGTERM)
        assert end in expected, text
    assert ends.count(128 + signal.SIGTERM) >= 8
    expect_equal(Path("alone"), Path("killed"))


def _records(log: Path) -> int:
    return log.read_bytes().count(b"\n") if log.exists() else 0


def _written(log: Path) -> int:
    """Return the time of the last change; 0 where there is no log."""
    return log.stat().st_mtime_ns if log.exists() else 0


def _start(arguments: Sequence[str], output: Path) -> int:
    """Start `vertebra` in a process of its own, the leader of a group; return its id."""
    child = os.fork()
    if child == 0:
        file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, 1)
        os.dup2(file, 2)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, signal.SIG_DFL)
        sys.argv = ["vertebra", *arguments]
        from vertebra.tools.cli import main

        main()  # ends the process
    os.setpgid(child, child)  # here, so that the group is there when it is killed
    return child


def _status(child: int, options: int = 0) -> int | None:
    """Return the status of a child that has ended; None where it has not yet, and is not waited for."""
    ended, status = os.waitpid(child, options)
    return os.waitstatus_to_exitcode(status) if ended else None


def _kill(child: int, kill: Kill, log: Path, before: int) -> int | None:
    """Kill a child at the moment that was planned, and return its status, whatever it ended by.

    before: when the log was written to before the child was there.
    """
    while kill.records and (_written(log) <= before or _records(log) < kill.records):
        if (status := _status(child, os.WNOHANG)) is not None:
            return status
        time.sleep(0.002)
    records, due = _records(log), time.perf_counter() + kill.delay
    # Not beyond the next record: what took long when the run was left alone may be done already.
    while time.perf_counter() < due and _records(log) <= records:
        time.sleep(0.002)
    # A batch system tells all of a job to end; what kills at once seldom finds them all.
    (os.killpg if kill.signal == signal.SIGTERM else os.kill)(child, kill.signal)
    return _status(child)


def _watch(child: int, log: Path) -> tuple[int, list[float]]:
    """Return the status of a child, and when, in seconds from now on, the log first had 1, 2, … records."""
    moments: list[float] = []
    began = time.perf_counter()
    while (status := _status(child, os.WNOHANG)) is None:
        moments += [time.perf_counter() - began] * (_records(log) - len(moments))
        time.sleep(0.002)
    return status, moments


def _run(arguments: Sequence[str], kills: Sequence[Kill]) -> Told:
    log = Path(arguments[arguments.index("--output") + 1], "log.jsonl")
    outputs = [Path(f"{log.parent}-{number}.txt") for number in range(len(kills) + 1)]
    ends = []
    for kill, output in zip(kills, outputs, strict=False):
        before = _written(log)
        ends.append(_kill(_start(arguments, output), kill, log, before))
    end, moments = _watch(_start(arguments, outputs[-1]), log)
    return Told([*ends, end], [path.read_text() for path in outputs], moments)


if __name__ == "__main__":
    for module in PRELOADED:
        __import__(module)
    plans = json.loads(sys.argv[1])
    found = [_run(arguments, [Kill(**kill) for kill in kills]) for arguments, kills in plans]
    print(json.dumps([asdict(told) for told in found]))
