"""`engine.fast_convolutions` on a CPU: another way to compute the same training."""

import json
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from vertebra.backbones.fast_convs import FastConv2d
from vertebra.tools import session


def test_they_train_alike(cli: Any, workplace: Path, arguments: list[object], monkeypatch: pytest.MonkeyPatch) -> None:
    """The losses of the first step are equal but for rounding, with the convolutions of a head of 64 channels."""
    models: list[nn.Module] = []
    use = session.use_fast_convs_
    monkeypatch.setattr(session, "use_fast_convs_", lambda model: models.append(use(model)))
    losses = []
    for setting in ("true", "false"):
        wide = ["--set", "head.fpn_channels=64", "--set", "schedule.epochs=1", "--output", setting]
        done = cli(*arguments, *wide, "--set", f"engine.fast_convolutions={setting}")
        assert done.status == 0, done.err
        records = map(json.loads, (workplace / setting / "log.jsonl").read_text().splitlines())
        losses.append(next(record for record in records if "loss" in record))
    (model,) = models  # asked for once, by the first run
    assert sum(isinstance(module, FastConv2d) for module in model.modules()) > 4
    assert losses[0]["loss"] == pytest.approx(losses[1]["loss"], rel=1e-4)
