"""What is said and kept when training goes wrong. The numbers expected are those that were put in."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from vertebra import InputError
from vertebra.heads.boxed_masks import BoxedMasks
from vertebra.tools.engine.loop import StepReport
from vertebra.tools.engine.trouble import Hints, Skips, out_of_memory

MASKS = torch.tensor([[[0, 1], [0, 1]]], dtype=torch.uint8)


def batch(*ids: int) -> list[Any]:
    target = {"boxes": torch.tensor([[0.0, 0.0, 2.0, 2.0]]), "masks": BoxedMasks.from_dense(MASKS)}
    return [(torch.full((3, 2, 2), i, dtype=torch.uint8), {**target, "image_id": torch.tensor(i)}) for i in ids]


def report(step: int, **changes: Any) -> StepReport:
    given = {"learning_rate": 0.02, "loss": 10 / step, "losses": {"loss_box": 10 / step}, "gradient_norm": 2.0}
    rest = {"images_per_second": 8.0, "waiting": 0.0, "memory": 10**9, "dropped": 0}
    return StepReport(**{"step": step, **given, **rest, **changes})


def hints(reports: list[StepReport]) -> list[str]:
    said: list[str] = []
    seer = Hints(said.append)
    for one in reports:
        seer.see(one)
    return said


# --- steps that cannot be taken --------------------------------------------------------------------------------------


def test_a_skipped_batch_is_saved_in_plain_types(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = nn.Linear(2, 1)
    Skips(tmp_path, limit=1).skip(12, {"loss_box": float("nan"), "loss_other": 1.5}, batch(7, 3), model)
    path = tmp_path / "trouble" / "step_00000012.pt"
    assert caplog.messages == [f"step 12 is skipped: loss_box is nan; image ids 7, 3; saved as {path}"]
    content = torch.load(path, weights_only=True)
    assert content["step"] == 12
    assert content["losses"]["loss_other"] == 1.5
    assert content["image_ids"] == [7, 3]
    assert [int(image[0, 0, 0]) for image in content["images"]] == [7, 3]
    masks = BoxedMasks(**content["targets"][0]["masks"])
    assert torch.equal(masks.dense(), MASKS)
    assert torch.equal(content["model"]["weight"], model.weight)


def test_each_process_saves_its_share(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Skips(tmp_path, limit=1, process=2).skip(5, {"loss": 1.0}, batch(1), nn.Linear(1, 1))
    assert torch.load(tmp_path / "trouble" / "step_00000005_process2.pt", weights_only=True)["process"] == 2
    assert "its gradient is not finite" in caplog.text


def test_more_than_the_limit_end_the_run_with_the_story(tmp_path: Path) -> None:
    """Steps that were skipped before the run was continued count."""
    skips = Skips(tmp_path, limit=3, skipped=2)
    skips.skip(40, {"loss": float("inf")}, batch(7), nn.Linear(1, 1))
    with pytest.raises(InputError, match=r"4 of 44 steps .*skip_limit=3: steps 40, 44; image ids 7, 8, 9\. `vertebra"):
        skips.skip(44, {"loss": float("nan")}, batch(8, 9), nn.Linear(1, 1))
    assert skips.skipped == 4


def test_a_batch_that_cannot_be_saved_does_not_end_the_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "trouble").mkdir()
    (tmp_path / "trouble" / "step_00000001.pt").mkdir()
    caplog.set_level(logging.WARNING)
    Skips(tmp_path, limit=1).skip(1, {"loss": float("nan")}, batch(7), nn.Linear(1, 1))
    assert "it could not be saved for replay: " in caplog.text
    assert [path.name for path in (tmp_path / "trouble").iterdir()] == ["step_00000001.pt"]


# --- hints -----------------------------------------------------------------------------------------------------------


def test_a_run_that_goes_well_gets_no_hint() -> None:
    """Also with a loss that is 0 now and then, and where it fell long ago."""
    good = [report(i, losses={"a": float(i % 200 != 0)}, waiting=0.5) for i in range(1, 700)]
    assert hints(good) == []
    assert hints([report(i, loss=1.0) for i in range(5001, 5701)]) == []


def test_a_loss_that_is_always_zero() -> None:
    said = hints([report(i, losses={"a": 1.0, "b": 0.0}) for i in range(1, 200)])
    assert said == []
    said = hints([report(i, losses={"a": 1.0, "b": 0.0}) for i in range(1, 900)])
    assert len(said) == 1
    assert said[0].startswith("hint: b has been 0 for 200 steps")


def test_a_flat_loss_comes_with_its_numbers() -> None:
    """Of 500 steps the loss is 4.0 in the first 100, and 3.96 in the last: a hundredth less."""
    said = hints([report(i, loss=4.0 if i <= 100 else 3.96) for i in range(1, 1001)])
    assert len(said) == 1
    assert "not fallen in 500 steps: 4 on average over the first 100, 3.96 over the last, with a gradient" in said[0]
    assert hints([report(i, loss=4.0 if i <= 100 else 3.88) for i in range(1, 1001)]) == []


def test_waiting_for_data() -> None:
    """0.6 of the time is said once, after 100 steps."""
    assert hints([report(i, waiting=0.6) for i in range(1, 100)]) == []
    (said,) = hints([report(i, waiting=0.6) for i in range(1, 400)])
    assert said.startswith("hint: 60% of the time of the last 100 steps")
    assert "engine.workers" in said


# --- memory ----------------------------------------------------------------------------------------------------------

STEP: dict[str, Any] = {
    "images": 8,
    "accumulation": 1,
    "precision": "float32",
    "checkpointing": False,
    "device": torch.device("cpu"),
}


def test_memory_that_was_really_too_small() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    told = str(out_of_memory(caught.value, **STEP))
    assert told.startswith("out of memory on cpu with 8 images at once in float32: the machine has ")
    assert "Set optim.accumulation=2 (4 at once instead of 8, for the same result); or backbone.checkpointing" in told


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"images": 9}, "optim.accumulation=3 (3 at once instead of 9"),
        ({"images": 8, "accumulation": 2}, "with 4 images at once in float32"),
        ({"images": 8, "accumulation": 2}, "optim.accumulation=4 (2 at once instead of 4"),
        ({"images": 1}, "with 1 image at once in float32"),
        ({"images": 2, "accumulation": 2}, "Set backbone.checkpointing=true"),
        ({"images": 1, "checkpointing": True}, "Set smaller images (transforms.short"),
    ],
)
def test_what_to_change(changes: dict[str, Any], expected: str) -> None:
    assert expected in str(out_of_memory(MemoryError(), **{**STEP, **changes}))


def test_the_error_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"mem_get_info": (1, 80 * 10**9), "max_memory_allocated": 70 * 10**9}.items():
        monkeypatch.setattr(torch.cuda, name, lambda device, value=value: value)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 75 * 10**9)
    told = str(
        out_of_memory(torch.OutOfMemoryError("CUDA out of memory"), **{**STEP, "device": torch.device("cuda:1")})
    )
    assert "it has 80.0 GB, of which this process used up to 70.0 GB and others use 5.0 GB" in told
    assert "engine.precision=bfloat16" in told


def test_other_errors_are_not_for_want_of_memory() -> None:
    assert out_of_memory(RuntimeError("shapes cannot be multiplied"), **STEP) is None
    assert out_of_memory(KeyError("memory"), **STEP) is None
