"""Checkpoints: whole or not there, and plain."""

from pathlib import Path

import pytest
import torch

import vertebra
from vertebra.tools.engine import checkpoint
from vertebra.tools.engine.checkpoint import read_checkpoint, save_checkpoint

CONTENT = {
    "model": {"w": torch.ones(2)},
    "preprocessing": {"mean": [0.5], "std": [0.5]},
    "optimiser": {},
    "step": 3,
    "categories": [[18, "dog"]],
    "config": "a: 1\n",
}


def test_what_is_saved_is_read(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, CONTENT)
    found = torch.load(path, weights_only=True)
    assert {key: found[key] for key in ("step", "categories", "config")} == {
        k: CONTENT[k] for k in ("step", "categories", "config")
    }
    assert torch.equal(found["model"]["w"], torch.ones(2))
    assert found["versions"]["torch"] == torch.__version__
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_write_leaves_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, CONTENT)

    def half(content: object, file: object) -> None:
        file.write(b"half of it")  # type: ignore[attr-defined]
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint.torch, "save", half)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(path, {**CONTENT, "step": 4})
    assert read_checkpoint(path)["step"] == 3
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_no_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    torch.save({"w": torch.ones(1)}, path)
    with pytest.raises(
        vertebra.InputError, match="not the checkpoint of a run: it has no model, preprocessing, optimiser"
    ):
        read_checkpoint(path)
