"""`vertebra benchmark`: both sides do the same work, and the figures are complete; how fast is no test's business."""

import json
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import pytest
import torch
from pycocotools import mask as coco_mask
from torch import nn

from vertebra.tools import peers, speed, speed_steps

Command = Callable[..., Any]


def case(**changes: Any) -> speed.Case:
    settings: dict[str, Any] = {
        "head": "mask_rcnn", "backbone": "resnet18", "size": (32, 48), "batch_size": 2, "objects": 3,
        "dtype": "float32", "compiled": False, "device": torch.device("cpu"), "steps": ("inference",), "repeats": 1,
    }  # fmt: skip
    return speed.Case(**{**settings, **changes})


@pytest.mark.parametrize(("head", "backbone"), [("mask_rcnn", "resnet18"), ("mask_rcnn_v2", "resnet50")])
def test_all_contestants_find_the_same(head: str, backbone: str) -> None:
    tiny = case(head=head, backbone=backbone)
    images = speed.make_images(tiny)
    torchvisions, tuned, ours = speed.contestants(tiny, images)
    expected = speed_steps.rle(torchvisions, images)()
    for contestant in (tuned, ours):
        for one, found in zip(expected, speed_steps.rle(contestant, images)(), strict=True):
            assert len(found["boxes"]) == 3
            assert torch.equal(found["labels"], one["labels"])
            torch.testing.assert_close(found["boxes"], one["boxes"], rtol=1e-3, atol=1e-2)
            same = coco_mask.decode(found["masks"]) == coco_mask.decode(one["masks"])
            assert same.mean() > 0.999  # but for pixels that lie at the threshold


def test_all_contestants_segment_and_learn_the_same() -> None:
    """Of images that no stride divides. In training without dropout, which draws for each model anew."""
    tiny = case(head="deeplabv3", backbone="resnet50", size=(40, 72))
    images, targets = speed.make_images(tiny), speed.make_targets(tiny)
    models = speed.contestants(tiny, images)
    first, *others = [speed_steps.inference(contestant, images)() for contestant in models]
    assert len(first[0]["semantic"].unique()) > 2
    for found in others:
        for one, expected in zip(found, first, strict=True):
            assert (one["semantic"].shape, one["semantic"].dtype) == ((40, 72), torch.uint8)
            assert (one["semantic"] == expected["semantic"]).float().mean() > 0.99

    losses = []
    for contestant in models:
        model = contestant.model.train()
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.eval()
        losses.append(torch.stack(list(model(images, targets).values())).detach())
    assert losses[0].shape == (2,)  # of the classifier and of the auxiliary one
    for found_losses in losses[1:]:
        torch.testing.assert_close(found_losses, losses[0], rtol=1e-3, atol=1e-4)


def test_targets_are_valid() -> None:
    """Boxes with area inside the image, each with a mask that touches its sides, to the pixel."""
    for target in speed.make_targets(case(size=(200, 300))):
        assert len(target["boxes"]) == peers.OBJECTS
        assert bool((target["boxes"] >= 0).all() & (target["boxes"] <= torch.tensor([300, 200, 300, 200])).all())
        assert bool((target["labels"] >= 1).all() & (target["labels"] < 91).all())
        for mask, box in zip(target["masks"], target["boxes"], strict=True):
            x, y = mask.any(0).nonzero(), mask.any(1).nonzero()
            around = torch.stack((x.min(), y.min(), x.max() + 1, y.max() + 1))
            assert float((around - box).abs().max()) < 2


def test_pixels_to_segment_are_of_all_classes_and_some_of_none() -> None:
    targets = speed.make_targets(case(head="deeplabv3", backbone="resnet50", size=(500, 700)))
    for target in targets:
        assert (target["semantic"].shape, target["semantic"].dtype) == ((500, 700), torch.uint8)
        assert target["semantic"].unique().tolist() == [*range(21), 255]
    assert not torch.equal(targets[0]["semantic"], targets[1]["semantic"])


def test_the_figures_are_complete(cli: Command, tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    before = torch.get_num_threads()
    done = cli(
        "benchmark", "heads", "--backbone", "resnet18", "--size", "32x48", "--batch-size", 1, "--objects", 3,
        "--repeats", 3, "--threads", 1, "--device", "cpu", "--json", file,
    )  # fmt: skip
    assert done.status == 0, done.err
    assert torch.get_num_threads() == before
    figures = json.loads(file.read_text())
    assert (figures["size"], figures["batch_size"], figures["threads"]) == ([32, 48], 1, 1)
    assert figures["versions"]["torch"] == torch.__version__
    assert figures["machine"]
    names = ["torchvision as it ships", "torchvision, channels_last", "vertebra"]
    rows = figures["rows"]
    assert [(row["step"], row["name"]) for row in rows] == [(s, n) for s in ("inference", "train") for n in names]
    assert [row["detections"] for row in rows] == [3] * 3 + [None] * 3
    for i, row in enumerate(rows):
        assert len(row["seconds"]) == 3
        assert 0 < row["min"] <= row["median"] == median(row["seconds"]) <= row["max"]
        assert row["ratio"] == pytest.approx(rows[i // 3 * 3]["median"] / row["median"])
    assert all(name in done.out for name in names)
    assert max(map(len, done.out.splitlines())) <= 100


def test_the_figures_of_a_segmenter(cli: Command, tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    done = cli(
        "benchmark", "heads", "--head", "deeplabv3", "--size", "40x40", "--batch-size", 1, "--what", "inference",
        "--repeats", 1, "--threads", 1, "--device", "cpu", "--json", file,
    )  # fmt: skip
    assert done.status == 0, done.err
    assert [row["agreement"] for row in json.loads(file.read_text())["rows"]] == [1] + [pytest.approx(1, abs=0.02)] * 2
    assert "agreement" in done.out
    assert max(map(len, done.out.splitlines())) <= 100


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_names_say_how_the_last_two_run(dtype: str) -> None:
    tiny = case(head="faster_rcnn", dtype=dtype, compiled=True)
    how = "channels_last, compiled" if dtype == "float32" else "channels_last, bfloat16, compiled"
    names = [contestant.name for contestant in speed.contestants(tiny, speed.make_images(tiny))]
    assert names == [
        "torchvision as it ships",
        f"torchvision, {how}",
        f"vertebra, {how.removeprefix('channels_last, ')}",
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--what", "rle"), "unknown step of faster_rcnn 'rle'. Known: inference, train."),
        (("--what", "train,inferense"), "Did you mean 'inference'?"),
        (("--head", "mask_rcn"), "Did you mean 'mask_rcnn'?"),
        (("--backbone", "densenet121"), "unknown backbone of torchvision's faster_rcnn 'densenet121'"),
        (("--head", "deeplabv3", "--backbone", "resnet18"), "Known: resnet101, resnet50."),
        (("--head", "deeplabv3", "--what", "rle"), "unknown step of deeplabv3 'rle'. Known: inference, train."),
        (("--head", "deeplabv3", "--batch-size", 1), "deeplabv3 trains on 2 images or more: give more, or leave out"),
        (("--dtype", "float16"), "unknown dtype 'float16'"),
        (("--size", "640"), "--size '640'; it is HxW, such as 480x640"),
        (("--repeats", 0), "'repeats': 0}: each must be at least 1"),
    ],
)
def test_bad_options_are_named(cli: Command, arguments: tuple[object, ...], message: str) -> None:
    done = cli("benchmark", "heads", *arguments)
    assert done.status == 2
    assert message in done.err
    assert not done.out
