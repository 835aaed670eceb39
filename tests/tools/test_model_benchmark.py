"""`vertebra benchmark model`: the figures are complete; how fast is no test's business."""

import json
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import pytest
import torch

Command = Callable[..., Any]


SHARED = ["torchvision as it ships", "torchvision, equal settings, float32", "vertebra, float32"]
TINY = (
    "benchmark", "model", "--backbone", "resnet18", "--size", "32x48", "--batch-size", 1, "--objects", 3,
    "--threads", 1, "--device", "cpu", "--peers", "torchvision",
)  # fmt: skip


def test_the_figures_are_complete(cli: Command, tmp_path: Path) -> None:
    file, picture = tmp_path / "figures.json", tmp_path / "figures.png"
    before = torch.get_num_threads()
    done = cli(*TINY, "--what", "inference", "--repeats", 3, "--parts", "--json", file, "--plot", picture)
    assert done.status == 0, done.err
    assert torch.get_num_threads() == before
    figures = json.loads(file.read_text())
    assert (figures["size"], figures["batch_size"], figures["threads"]) == ([32, 48], 1, 1)
    assert figures["versions"]["torch"] == torch.__version__
    assert figures["machine"]
    rows = figures["rows"]
    assert [row["name"] for row in rows] == [*SHARED, "vertebra.optimize, float32"]
    assert [row["found"] for row in rows] == [{"objects": 3, "agree": 1}] * 4
    for row in rows:
        assert len(row["seconds"]) == 3
        assert 0 < row["min"] <= row["median"] == median(row["seconds"]) <= row["max"]
        assert row["ratio"] == pytest.approx(rows[0]["median"] / row["median"])
        assert row["images_per_second"] == pytest.approx(1 / row["median"])
        assert row["of_peak"] == pytest.approx(row["operations"] / row["median"] / figures["peaks"]["float32"])
        assert {"decode", "trunk", "RoI", "other"} < set(row["parts"])
    # Of three proposals and more, two linear layers alone: 2 x (12544 x 1024 + 1024 x 1024) operations each.
    assert rows[0]["operations"] > 3 * 2 * (12544 + 1024) * 1024
    assert all(row["name"] in done.out for row in rows)
    assert max(map(len, done.out.splitlines())) <= 100
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow  # it starts a process for each row
def test_the_figures_of_training(cli: Command, tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    done = cli(
        *TINY, "--what", "train", "--frozen-stages", 2, "--checkpointing", "--repeats", 1, "--json", file
    )  # fmt: skip
    assert done.status == 0, done.err
    rows = json.loads(file.read_text())["rows"]
    assert [row["name"] for row in rows] == [
        *SHARED,
        "vertebra, fast convolutions, float32",
        "vertebra, checkpointing, float32",
    ]
    assert all(row["found"] == {} and row["parts"] is None and row["median"] > 0 for row in rows)
    assert "2 stages frozen in training" in done.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--what", "rle"), "unknown step of faster_rcnn 'rle'. Known: inference, train."),
        (("--what", "train,inferense"), "Did you mean 'inference'?"),
        (("--what", "train,train"), "step 'train' came twice"),
        (("--head", "mask_rcn"), "Did you mean 'mask_rcnn'?"),
        (("--backbone", "densenet121"), "unknown backbone of torchvision's faster_rcnn 'densenet121'"),
        (("--head", "deeplabv3", "--backbone", "resnet18"), "Known: resnet101, resnet50."),
        (("--head", "deeplabv3", "--what", "rle"), "unknown step of deeplabv3 'rle'. Known: inference, train."),
        (("--head", "deeplabv3", "--batch-size", 1), "deeplabv3 trains on 2 images or more: give more, or leave out"),
        (("--head", "deeplabv3", "--frozen-stages", 2), "the norms of frozen stages still learn"),
        (("--head", "deeplabv3", "--peers", "detectron2"), "detectron2 has no deeplabv3 on resnet50"),
        (("--dtype", "float16"), "unknown dtype 'float16'"),
        (("--dtype", "float32,float32"), "dtype 'float32' came twice"),
        (("--peers", "torchvison"), "Did you mean 'torchvision'?"),
        (("--size", "640"), "--size '640'; it is HxW, such as 480x640"),
        (("--repeats", 0), "'repeats': 0}: each must be at least 1"),
        (("--frozen-stages", 6), "frozen_stages=6; 0 (none) to 5"),
        (("--what", "inference", "--checkpointing"), "add the step train"),
        (("--plot", "figures.txt"), "its name ends with .png"),
        (("--json", "lacking/figures.json"), "make lacking, or choose another"),
    ],
)
def test_bad_options_are_named(cli: Command, arguments: tuple[object, ...], message: str) -> None:
    done = cli("benchmark", "model", *arguments)
    assert done.status == 2
    assert message in done.err
    assert len(done.err.splitlines()) == 1
    assert not done.out


def test_a_library_that_is_not_installed_is_named(cli: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    from vertebra.tools.speed import case

    monkeypatch.setattr(case, "find_spec", lambda name: None)
    done = cli("benchmark", "model", "--peers", "detectron2")
    assert done.status == 2
    assert "detectron2 is not installed; install it beside vertebra, or leave it out" in done.err
