"""The parts of a step make up the whole."""

import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from vertebra.tools.speed.case import Case, given
from vertebra.tools.speed.contestants import contestant, entries, reference_of
from vertebra.tools.speed.parts import READERS, Clock, Probe, parts_of, watched
from vertebra.tools.speed.steps import STEPS

MakeCase = Callable[..., Case]
CPU = torch.device("cpu")

RCNN = {"transform", "trunk", "RPN head", "proposals", "NMS", "RoI", "other"}
EXPECTED = {
    ("mask_rcnn", "rle"): RCNN | {"masks", "run lengths"},
    ("faster_rcnn", "train"): RCNN | {"losses", "backward", "optimiser"},
    ("deeplabv3", "inference"): {"transform", "trunk", "head", "class maps", "other"},
}


@pytest.mark.parametrize(("head", "step"), EXPECTED)
def test_every_part_has_its_time_in_both(tiny: MakeCase, head: str, step: str) -> None:
    backbone = "resnet50" if head == "deeplabv3" else "resnet18"
    case = tiny(head=head, backbone=backbone, steps=(step,), batch_size=1, objects=2)
    things = given(case, step)
    reference = reference_of(case, step, things[0])  # type: ignore[arg-type]
    for entry in entries(case, step):
        if entry.name.endswith("ships"):
            continue  # as the next but for its settings
        one = contestant(case, step, entry, reference)
        run = STEPS[step](one, *things)
        run()
        assert entry.row.kind is not None
        parts = parts_of(entry.row.kind, one.model, step, run, CPU, 1)
        assert set(parts) == EXPECTED[head, step], entry.name
        assert all(seconds > 0 for seconds in parts.values())
        assert parts["other"] < 0.2 * sum(parts.values()), entry.name


def test_time_of_a_call_within_another_is_the_inner_ones_alone() -> None:
    model = SimpleNamespace(
        inner=lambda: time.sleep(0.03), outer=lambda: (time.sleep(0.02), model.inner(), time.sleep(0.01))
    )
    clock = Clock(CPU)
    before = model.outer
    with watched(model, (Probe("in", "inner"), Probe("out", "outer"), Probe("none", "lacking")), clock):  # type: ignore[arg-type]
        clock.time("other", lambda: (model.outer(), time.sleep(0.005)))
    assert model.outer is before
    assert list(clock.seconds) == ["in", "out", "other"]
    assert clock.seconds["in"] == pytest.approx(0.03, abs=0.015)
    assert clock.seconds["out"] == pytest.approx(0.03, abs=0.015)
    assert 0.005 <= clock.seconds["other"] < 0.03


def test_both_read_the_same_pixels(tmp_path: Path) -> None:
    """Of a PNG, as two JPEG decoders may round apart."""
    from PIL import Image

    image = torch.arange(5 * 7 * 3, dtype=torch.uint8).view(5, 7, 3)
    Image.fromarray(image.numpy()).save(tmp_path / "image.png")
    for read in READERS.values():
        assert torch.equal(torch.as_tensor(read(tmp_path / "image.png")), image.permute(2, 0, 1))
