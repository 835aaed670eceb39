"""Which checkpoints stay, whatever happens in between; what is said where one cannot be written."""

import os
import resource
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import vertebra
from vertebra.tools.engine import keeping
from vertebra.tools.engine.keeping import Keeper, newest_good


def content(step: int, numbers: int = 4) -> dict[str, Any]:
    return {
        "model": {"w": torch.full((numbers,), float(step))},
        "preprocessing": {"mean": [0.5], "std": [0.5]},
        "norm_eps": 1e-5,
        "optimiser": {},
        "step": step,
        "position": 2 * step,
        "skipped": 0,
        "ema": None,
        "scaler": {},
        "categories": [[18, "dog"]],
        "config": "a: 1\n",
    }


def steps(folder: Path) -> dict[str, float]:
    """The checkpoints by their names with the step that their weights are of."""
    found = {path: torch.load(path, weights_only=True) for path in sorted(folder.rglob("*.pt*")) if path.is_file()}
    assert all(float(state["step"]) == float(state["model"]["w"][0]) for state in found.values())
    return {str(path.relative_to(folder)): state["step"] for path, state in found.items()}


def damage(path: Path) -> None:
    """Turn a bit of the weights, in a copy, so that the file's hard links stay whole."""
    damaged = bytearray(path.read_bytes())
    weights = torch.load(path, weights_only=True)["model"]["w"].numpy().tobytes()
    damaged[damaged.index(weights)] ^= 1
    path.unlink()
    path.write_bytes(damaged)


def refusal(function: Callable[[], object]) -> str:
    with pytest.raises(vertebra.InputError) as error:
        function()
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.fixture
def limited() -> Iterator[None]:
    """No file may grow beyond 100 kB meanwhile."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_the_newest_ones_stay(tmp_path: Path) -> None:
    keeper = Keeper(tmp_path, 3)
    for step in (5, 10, 15, 20):
        keeper.save(content(step))
    assert steps(tmp_path) == {
        "checkpoint.pt": 20,
        "checkpoints/step_00000010.pt": 10,
        "checkpoints/step_00000015.pt": 15,
    }


def test_a_single_one_needs_no_folder(tmp_path: Path) -> None:
    keeper = Keeper(tmp_path, 1)
    for step in (5, 10):
        keeper.save(content(step))
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]
    assert steps(tmp_path) == {"checkpoint.pt": 10}


def test_milestones_and_the_best_stay(tmp_path: Path) -> None:
    keeper = Keeper(tmp_path, 2)
    for step in (5, 10, 15, 20):
        keeper.save(content(step), milestone=step in (5, 15))
        if step == 10:
            keeper.save_best(content(step))
    assert steps(tmp_path) == {
        "best.pt": 10,
        "checkpoint.pt": 20,
        "checkpoints/milestone_00000005.pt": 5,
        "checkpoints/milestone_00000015.pt": 15,
        "checkpoints/step_00000015.pt": 15,
    }
    older = tmp_path / "checkpoints"
    assert (older / "milestone_00000015.pt").samefile(older / "step_00000015.pt")  # no bytes of their own


def test_copies_where_links_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refused)
    keeper = Keeper(tmp_path, 2)
    for step in (5, 10, 15):
        keeper.save(content(step), milestone=step == 10)
    assert steps(tmp_path) == {
        "checkpoint.pt": 15,
        "checkpoints/milestone_00000010.pt": 10,
        "checkpoints/step_00000010.pt": 10,
    }


def test_one_step_saved_twice_is_no_older_one(tmp_path: Path) -> None:
    keeper = Keeper(tmp_path, 3)
    for step in (5, 10, 10):
        keeper.save(content(step))
    assert steps(tmp_path) == {"checkpoint.pt": 10, "checkpoints/step_00000005.pt": 5}


def test_a_resumed_run_keeps_what_its_predecessor_wrote(tmp_path: Path) -> None:
    Keeper(tmp_path, 2).save(content(5))
    Keeper(tmp_path, 2).save(content(10))
    assert steps(tmp_path) == {"checkpoint.pt": 10, "checkpoints/step_00000005.pt": 5}


def test_after_a_damaged_newest_one_the_run_goes_on_from_the_one_before(tmp_path: Path) -> None:
    keeper = Keeper(tmp_path, 3)
    for step in (5, 10, 15, 20):
        keeper.save(content(step))
    damage(tmp_path / "checkpoint.pt")
    damage(tmp_path / "checkpoints/step_00000015.pt")
    warnings: list[str] = []
    found = newest_good(tmp_path, warnings.append)
    assert found is not None
    assert found["step"] == 10
    assert len(warnings) == 2
    assert "checkpoint.pt is no whole checkpoint: archive/data/0 in it does not match its checksum; it" in warnings[0]
    assert "step_00000015.pt" in warnings[1]
    Keeper(tmp_path, 3).save(content(13))  # 15 and 20 are of a future that did not come
    assert steps(tmp_path) == {"checkpoint.pt": 13, "checkpoints/step_00000010.pt": 10}


def test_the_one_before_is_named_where_the_newest_is_damaged(tmp_path: Path, limited: None) -> None:
    keeper = Keeper(tmp_path, 2)
    for step in (5, 10):
        keeper.save(content(step))
    damage(tmp_path / "checkpoint.pt")
    message = refusal(lambda: Keeper(tmp_path, 2).save(content(15, numbers=100_000)))
    assert "The older checkpoint, of step 5, is whole" in message


def test_newest_good_reads_no_further_than_it_must(tmp_path: Path) -> None:
    warnings: list[str] = []
    assert newest_good(tmp_path, warnings.append) is None
    assert newest_good(tmp_path / "absent", warnings.append) is None
    keeper = Keeper(tmp_path, 2)
    for step in (5, 10):
        keeper.save(content(step), milestone=True)
    damage(tmp_path / "checkpoints/step_00000005.pt")
    found = newest_good(tmp_path, warnings.append)
    assert found is not None
    assert (found["step"], found["skipped"]) == (10, 0)
    assert warnings == []
    (tmp_path / "checkpoint.pt").unlink()
    found = newest_good(tmp_path, warnings.append)
    assert found is not None
    assert found["step"] == 10
    assert warnings == []


def test_the_best_is_taken_where_no_other_is_left(tmp_path: Path) -> None:
    keeper = Keeper(tmp_path, 2)
    keeper.save_best(content(5))
    for step in (10, 15):
        keeper.save(content(step))
    damage(tmp_path / "checkpoint.pt")
    for step, path in ((10, "checkpoints/step_00000010.pt"), (5, "best.pt")):
        found = newest_good(tmp_path, lambda warning: None)
        assert found is not None
        assert found["step"] == step
        damage(tmp_path / path)


def test_a_run_is_not_begun_again_unasked(tmp_path: Path) -> None:
    keeper = Keeper(tmp_path, 2)
    for step in (5, 10):
        keeper.save(content(step))
    damage(tmp_path / "checkpoint.pt")
    (tmp_path / "checkpoints/step_00000005.pt").write_bytes(b"")
    warnings: list[str] = []
    message = refusal(lambda: newest_good(tmp_path, warnings.append))
    assert message.startswith(f"none of the 2 checkpoints in {tmp_path} is whole")
    assert len(warnings) == 2


def test_a_disk_that_is_full(tmp_path: Path, limited: None) -> None:
    """Refused by the system in the middle of the file, as a full disk does."""
    keeper = Keeper(tmp_path, 2)
    keeper.save(content(5))
    keeper.save(content(10))
    before = steps(tmp_path)
    message = refusal(lambda: keeper.save(content(15, numbers=100_000), milestone=True))
    free = shutil.disk_usage(tmp_path).free / 1e6
    assert message.startswith(
        f"{tmp_path}/checkpoint.pt of step 15 could not be written: File too large (it takes 0.4 MB"
    )
    assert float(message.split("MB, ")[1].split(" MB are free")[0]) == pytest.approx(free, rel=0.1)
    assert "The older checkpoint, of step 10, is whole. Raise the limit of the size of files (ulimit -f)" in message
    assert message.endswith(f"and continue with `vertebra train --resume {tmp_path}`")
    assert "best.pt of step 15 could not be" in refusal(lambda: keeper.save_best(content(15, numbers=100_000)))
    assert steps(tmp_path) == before
    assert not list(tmp_path.rglob(".*"))
    keeper.save(content(20))
    assert steps(tmp_path) == {"checkpoint.pt": 20, "checkpoints/step_00000010.pt": 10}


def test_a_disk_that_was_full_from_the_start(tmp_path: Path, limited: None) -> None:
    message = refusal(lambda: Keeper(tmp_path, 2).save(content(5, numbers=100_000)))
    assert "No older checkpoint is there. Raise the limit" in message
    assert message.endswith("and start again")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Keeper(tmp_path, 2).save(content(5))
    monkeypatch.chdir(tmp_path)
    folder = Path()
    keeper = Keeper(folder, 2)
    user = os.geteuid()
    tmp_path.chmod(0o555)
    if user == 0:
        os.seteuid(65534)  # the superuser may write anywhere
    try:
        message = refusal(lambda: keeper.save(content(10)))
    finally:
        os.seteuid(user)
        tmp_path.chmod(0o755)
    assert message.startswith("checkpoint.pt of step 10 could not be written: Permission denied (it takes 0.0 MB")
    assert "of step 5, is whole. Make the folder one that can be written to, and continue with" in message
    assert steps(tmp_path) == {"checkpoint.pt": 5}


def test_a_folder_that_has_gone(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    keeper = Keeper(folder, 2)
    folder.rmdir()
    assert "run/checkpoint.pt of step 5 could not be written: No such file" in refusal(lambda: keeper.save(content(5)))


def test_other_errors_are_not_explained_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(path: Path, content: object) -> None:
        raise RuntimeError("CUDA error")

    monkeypatch.setattr(keeping, "write_checkpoint", broken)
    with pytest.raises(RuntimeError, match="CUDA error"):
        Keeper(tmp_path, 2).save(content(5))


class Killed:
    """Kills its process with SIGKILL before its `after`-th call of the system."""

    def __init__(self, after: int) -> None:
        self.left = after

    def before(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            self.left -= 1
            if self.left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **options)

        return call


CALLS = ("open", "fsync", "link", "replace", "unlink", "mkdir", "close")


@pytest.mark.parametrize("keep", [1, 2])
def test_a_kill_at_any_moment_of_a_save_leaves_a_whole_checkpoint(tmp_path: Path, keep: int) -> None:
    whole = 0
    for after in range(100):
        folder = tmp_path / str(after)
        folder.mkdir()
        keeper = Keeper(folder, keep)
        for step in (5, 10):
            keeper.save(content(step))
        child = os.fork()
        if child == 0:
            killed = Killed(after)
            for name in CALLS:
                setattr(os, name, killed.before(getattr(os, name)))
            keeper.save(content(15), milestone=True)
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        warnings: list[str] = []
        found = newest_good(folder, warnings.append)
        assert found is not None
        assert found["step"] in ((15,) if status == 0 else (10, 15))
        assert float(found["model"]["w"][0]) == found["step"]
        assert found["step"] == 10 or (folder / "checkpoints/milestone_00000015.pt").exists()
        assert warnings == []
        Keeper(folder, keep).save(content(found["step"] + 5))
        assert not list(folder.rglob(".*"))
        assert len(list(folder.glob("checkpoints/step_*"))) == keep - 1
        if status == 0:
            break
        whole += found["step"] == 15
    assert status == 0
    assert 0 < whole < after  # kills before and after the new one is in its place
