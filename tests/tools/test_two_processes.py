"""Runs of the command line by two processes that torchrun starts: they are one with a run by one, and end together."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

ALONE = [sys.executable, "-m", "vertebra.tools.train"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "-m", "vertebra.tools.train"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}

HEADS = {
    "mask_rcnn": [
        *("backbone.norm=group", "head.fpn_channels=16", "head.box_head_channels=32", "head.anchor_scales=[4]"),
        *("head.mask_convs=1", "head.mask_channels=8", "head.box_batch_size_per_image=32"),
    ],
    "classifier": ["backbone.norm=group", "transforms.crop=[32,32]", "transforms.short=32"],
}
COMMON = [
    *("optim.lr=0.0005", "schedule.warmup_steps=2", "engine.device=cpu", "engine.log_every=1", "engine.pictures=2"),
    *("optim.batch_size=4", "engine.workers=0"),
]


def command(start: list[str], workplace: Path, head: str, output: str, *settings: str) -> list[str]:
    every = [part for setting in [*COMMON, *HEADS[head], *settings] for part in ("--set", setting)]
    options = {"head": head, "backbone": "resnet18", "data": "data.yaml", "schedule": "smoke", "output": output}
    return [*start, *(part for name, value in options.items() for part in (f"--{name}", value)), *every]


def records(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines(keepends=True)]


@pytest.mark.parametrize(("head", "settings"), [("mask_rcnn", ()), ("classifier", ("optim.accumulation=2",))])
def test_two_are_one(workplace: Path, head: str, settings: tuple[str, ...]) -> None:
    """Losses to 1e-5, and the same metrics, of all 8 training and 4 validation images in two epochs."""
    for start, output in ((ALONE, "one"), (TORCHRUN, "two")):
        subprocess.run(
            command(start, workplace, head, output, "schedule.epochs=2", *settings), env=ENVIRONMENT, check=True
        )
    one, two = records(workplace / "one"), records(workplace / "two")
    steps = [(a["losses"], b["losses"]) for a, b in zip(one, two, strict=True) if "losses" in a]
    assert len(steps) >= 4
    for a, b in steps:
        assert b == pytest.approx(a, abs=1e-5)
    assert two[-1]["held_out"] == pytest.approx(one[-1]["held_out"], abs=1e-5)
    found, expected = (
        json.loads((workplace / name / "evaluation" / "metrics.json").read_text()) for name in ("two", "one")
    )
    assert found == expected


def test_one_that_is_killed_ends_the_other(workplace: Path) -> None:
    run = subprocess.Popen(
        command(TORCHRUN, workplace, "mask_rcnn", "run", "schedule.epochs=1000"),
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        log = workplace / "run" / "log.jsonl"
        limit = time.monotonic() + 120
        while not (log.exists() and len(log.read_text().splitlines()) >= 3):
            assert run.poll() is None
            assert time.monotonic() < limit
            time.sleep(0.1)
        _, second = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()[:2]
        os.kill(int(second), signal.SIGKILL)
        said = run.communicate(timeout=30)[1]
    finally:
        run.kill()
    assert run.returncode == 1
    assert "process 1 of 2 (host" in said
    assert "ended: it is gone without a word" in said
