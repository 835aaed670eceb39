"""`vertebra backbones convert`: what it prints, and the backbone of a run."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision

import vertebra
from vertebra.tools.build import build_model
from vertebra.tools.config import compose
from vertebra.tools.run import Run, write_config


@pytest.fixture
def run(workplace: Path) -> Path:
    """The folder of a run of a detector on ResNet-18, with weights for images of its own statistics."""
    choices = {"head": "faster_rcnn", "backbone": "resnet18", "data": "data.yaml", "schedule": None}
    config = compose("small.yaml", choices, [], [])
    run = Run(Path("run"), config)
    write_config(run)
    model = build_model(config, 4).state_dict()
    content = {"model": model, "preprocessing": {"mean": [0.5, 0.4, 0.3], "std": [0.25] * 3}, "norm_eps": 1e-5}
    torch.save({**content, "categories": [], "ema": None}, run.checkpoint)
    return run.folder


def test_the_backbone_of_a_run(cli: Any, run: Path) -> None:
    done = cli("backbones", "convert", run, "theirs.pth", "--to", "torchvision")
    assert done.status == 0
    lines = done.out.splitlines()
    assert lines[0] == "read: resnet18 in the keys of vertebra, 120 tensors"
    assert lines[1].startswith("left out: backbone (16), ")
    assert "features equal those of torchvision's own network: they differ by 0.0e+00 at most (float64)" in lines
    assert lines[-1] == "images: RGB in [0, 1], mean=[0.5, 0.4, 0.3], std=[0.25, 0.25, 0.25]"
    peer = torchvision.models.resnet18()
    peer.load_state_dict(torch.load("theirs.pth"), strict=False)
    ours = torch.load(run / "checkpoint.pt")["model"]
    assert torch.equal(peer.layer4[1].conv2.weight, ours["backbone.body.layer4.1.conv2.weight"])


def test_options_reach_the_file(cli: Any, tmp_path: Path) -> None:
    source, target = tmp_path / "theirs.pth", tmp_path / "ours.pth"
    torch.save(torchvision.models.resnet18().state_dict(), source)
    done = cli(
        "backbones", "convert", source, target, "--backbone", "resnet18", "--from", "torchvision",
        "--channels", "bgr", "--mean", 0.1, 0.2, 0.3, "--std", 0.4, 0.5, 0.6, "--eps", 0.01,
    )  # fmt: skip
    assert "its images: BGR in 0..1, mean 0.1 0.2 0.3, std 0.4 0.5 0.6; as given" in done.out.splitlines()
    network = vertebra.create_backbone("resnet18", weights=target)
    assert network.preprocessing == vertebra.Preprocessing((0.3, 0.2, 0.1), (0.6, 0.5, 0.4))
    assert torch.equal(network.conv1.weight.flip(1), torch.load(source)["conv1.weight"])
    assert network.bn1.eps == 0.01


def test_a_file_does_not_know_its_name(cli: Any, tmp_path: Path) -> None:
    torch.save({}, tmp_path / "theirs.pth")
    done = cli("backbones", "convert", tmp_path / "theirs.pth", tmp_path / "ours.pth")
    assert done.status == 2
    assert done.err.startswith("error: ")
    assert "does not say which network it holds: give its name here (--backbone resnet50)" in done.err


def test_layouts_are_the_librarys() -> None:
    from vertebra.backbones.exchange import FRAMEWORKS, OURS
    from vertebra.backbones.exchange.pixels import ORDERS
    from vertebra.tools.backbones_convert import Layout, Order

    assert {layout.value for layout in Layout} == {OURS, *FRAMEWORKS}
    assert tuple(order.value for order in Order) == ORDERS
