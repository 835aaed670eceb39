"""Checkpoints: whole or not there, plain, and never believed unread."""

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import vertebra
from vertebra.tools.engine import checkpoint
from vertebra.tools.engine.checkpoint import read_checkpoint, save_checkpoint

CONTENT = {
    "model": {"w": torch.arange(4.0)},
    "preprocessing": {"mean": [0.5], "std": [0.5]},
    "norm_eps": 1e-5,
    "optimiser": {"state": {0: {"exp_avg": torch.ones(4)}}, "param_groups": [{"lr": 0.1, "betas": (0.9, 0.99)}]},
    "step": 3,
    "position": 48,
    "skipped": 1,
    "ema": {"w": torch.ones(4)},
    "scaler": {"scale": 65536.0},
    "categories": [[18, "dog"]],
    "config": "a: 1\n",
}
FIRST = ("model", "preprocessing", "optimiser", "step", "categories", "config")  # what the first versions wrote


class Payload:
    """Pickled, it is a call that makes a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.target),)


def same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    return bool(one == other)


def refused(path: Path) -> str:
    with pytest.raises(vertebra.InputError) as error:
        read_checkpoint(path)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, CONTENT)
    return path


def test_what_is_saved_is_read(saved: Path) -> None:
    found = torch.load(saved, weights_only=True)
    assert same({key: found[key] for key in CONTENT}, CONTENT)
    assert found["versions"]["torch"] == torch.__version__
    assert same(read_checkpoint(saved), found)
    assert list(saved.parent.iterdir()) == [saved]


def test_checkpoints_of_older_versions_are_read(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    torch.save({key: CONTENT[key] for key in FIRST}, path)
    later = {"norm_eps": None, "position": None, "skipped": 0, "ema": None, "scaler": {}}
    assert same(read_checkpoint(path), {**{key: CONTENT[key] for key in FIRST}, **later})


def test_a_failed_write_leaves_the_old_checkpoint(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def half(content: object, file: Any) -> None:
        file.write(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint.torch, "save", half)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(saved, {**CONTENT, "step": 4})
    assert read_checkpoint(saved)["step"] == 3
    assert list(saved.parent.iterdir()) == [saved]


def test_what_could_not_be_read_again_is_not_written(saved: Path) -> None:
    """A float64 of NumPy is a float, and yet nothing that torch.load takes with weights_only."""
    with pytest.raises(
        vertebra.InputError, match=r"checkpoint\['scaler'\]\['scale'\] is a numpy.float64; a checkpoint"
    ):
        save_checkpoint(saved, {**CONTENT, "scaler": {"scale": np.float64(0.5)}})
    assert same(read_checkpoint(saved)["scaler"], CONTENT["scaler"])


def test_what_is_no_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    torch.save({"w": torch.ones(1)}, path)
    assert "weights.pt is not the checkpoint of a run: it has no model, preprocessing, optimiser" in refused(path)
    assert refused(tmp_path / "absent.pt").endswith("absent.pt; has the run been trained?")


def test_no_flipped_bit_goes_unseen(saved: Path) -> None:
    """What torch.load would read without a word: it does not look at checksums."""
    whole, expected = saved.read_bytes(), read_checkpoint(saved)
    seen = 0
    for place in range(0, len(whole), 3):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        saved.write_bytes(damaged)
        try:
            assert same(read_checkpoint(saved), expected)  # it was in the padding, or in a date
        except vertebra.InputError:
            seen += 1
    assert seen > len(whole) / 6


def test_a_flipped_bit_in_a_weight_is_named(saved: Path) -> None:
    whole = saved.read_bytes()
    place = whole.index(np.arange(4, dtype=np.float32).tobytes())
    saved.write_bytes(whole[:place] + b"\x01" + whole[place + 1 :])
    assert not torch.equal(torch.load(saved, weights_only=True)["model"]["w"], torch.arange(4.0))
    assert "checkpoint.pt is no whole checkpoint: " in refused(saved)
    assert "does not match its checksum" in refused(saved)


def test_a_flipped_bit_in_the_table_of_contents(saved: Path) -> None:
    """It makes a folder of a weight, which passes every checksum, and which torch.load reads as whatever comes."""
    whole = bytearray(saved.read_bytes())
    entry = whole.rindex(b"/data/0") - len("archive") - 46  # where the entry begins, by the format's description
    assert whole[entry : entry + 4] == b"PK\x01\x02"
    whole[entry + 38] ^= 0x10
    saved.write_bytes(whole)
    torch.load(saved, weights_only=True)
    assert "archive/data/0 in it has attributes, which it was written without" in refused(saved)


@pytest.mark.parametrize("share", [0.001, 0.3, 0.7, 0.999])
def test_a_file_that_was_cut(saved: Path, share: float) -> None:
    whole = saved.read_bytes()
    saved.write_bytes(whole[: int(share * len(whole))])
    assert "checkpoint.pt is no whole checkpoint: it is cut short" in refused(saved)


def test_empty_and_other_files(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    path.touch()
    assert "checkpoint.pt is no whole checkpoint: it is empty" in refused(path)
    path.write_bytes(np.random.default_rng(0).bytes(5000))
    assert "checkpoint.pt is no whole checkpoint: it is cut short, or something else" in refused(path)


def test_a_payload_never_runs(tmp_path: Path) -> None:
    path, target = tmp_path / "checkpoint.pt", tmp_path / "payload"
    torch.save({**CONTENT, "model": Payload(target)}, path)
    assert "tensors and plain types only" in refused(path)
    path.write_bytes(pickle.dumps({**CONTENT, "model": Payload(target)}))
    refused(path)
    assert not target.exists()
    pickle.loads(path.read_bytes())
    assert target.exists()  # so it was a payload


def test_an_older_checkpoint_is_pointed_to(saved: Path) -> None:
    older = saved.parent / "checkpoints"
    older.mkdir()
    for name in ("step_00000001.pt", "milestone_00000002.pt"):
        save_checkpoint(older / name, CONTENT)
    saved.write_bytes(b"")
    message = refused(saved)
    assert f"An older one is at {older / 'milestone_00000002.pt'}: --auto-resume continues from it" in message
    saved.unlink()
    assert "no checkpoint at" in refused(saved)
    assert "milestone_00000002.pt" in refused(saved)
