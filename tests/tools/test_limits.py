"""What settings may not be: one line for each, with the value that came."""

import re

import pytest

import vertebra
from vertebra.tools.config import compose


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ("optim.batch_size=0", "optim.batch_size=0; it must be at least 1"),
        ("schedule.steps=0", "schedule.steps=0; it must be at least 1"),
        ("schedule.warmup_factor=1.5", "schedule.warmup_factor=1.5; it is from 0 to 1"),
        ("schedule.floor=-0.1", "schedule.floor=-0.1; it is from 0 to 1"),
        ("optim.ema=1", "optim.ema=1.0; it is between 0 and 1, as 0.9998, or null"),
        ("optim.clip_norm=0", "optim.clip_norm=0.0; it is more than 0, or null"),
        ("engine.evaluate_every=0", "engine.evaluate_every=0.0; it is more than 0: it counts epochs, or is null"),
        ("optim.momentum=1", "optim.momentum=1.0; from 0 to less than 1"),
        ("optim.betas=[0.9,1]", "optim.betas=0.9, 1.0; from 0 to less than 1"),
        ("optim.nesterov=true optim.momentum=0", "optim.nesterov=true needs optim.momentum above 0"),
        (
            "schedule.steps=1000",
            "schedule.milestones=[8, 11] count steps, as schedule.steps=1000 is set, but look like epochs",
        ),
        (
            "schedule.milestones=[60000,80000]",
            "schedule.milestones=[60000, 80000] count epochs, as schedule.epochs=12 does, but look like steps",
        ),
    ],
)
def test_out_of_bounds(overrides: str, message: str) -> None:
    with pytest.raises(vertebra.InputError, match=re.escape(message)):
        compose(None, {"schedule": "1x"}, (), overrides.split())


@pytest.mark.parametrize(
    "overrides",
    [
        "schedule.steps=1000 schedule.milestones=[600,800]",
        "schedule.milestones=[600,800] schedule.steps=1000",
        "schedule.steps=1000 schedule.decay=cosine",
        "schedule.epochs=1",
        "schedule.milestones=[] schedule.steps=1000",
        "optim.clip_norm=null optim.ema=null",
    ],
)
def test_within_bounds(overrides: str) -> None:
    compose(None, {"schedule": "1x"}, (), overrides.split())
