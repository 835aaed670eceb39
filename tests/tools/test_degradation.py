"""The degradation experiment: its pictures, gradient norms by depth, training, and what the command leaves."""

import json
from collections.abc import Callable
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from vertebra.backbones import FeatureInfo, Step, Trunk, create_backbone
from vertebra.backbones.contract import Preprocessing
from vertebra.backbones.stage import Stage, conv_norm_relu
from vertebra.tools.data.shapes import SHAPES
from vertebra.tools.gradients import (
    PooledClassifier,
    block_weights,
    cifar_pictures,
    gradient_norms,
    shape_pictures,
    shuffled,
    train,
    warm_up,
)

nn = torch.nn


def tiny() -> PooledClassifier:
    """A stem and one stage of two blocks."""
    torch.manual_seed(0)
    blocks = [conv_norm_relu(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d) for _ in range(2)]
    steps = [
        Step("conv1", nn.Conv2d(3, 4, 3), 0),
        Step("bn1", nn.BatchNorm2d(4), 0),
        Step("layer1", Stage(blocks), 1, FeatureInfo("c2", 4, 1)),
    ]
    return PooledClassifier(Trunk(steps, Preprocessing()), len(SHAPES))


def test_pictures_depend_on_the_seed_alone_and_show_every_kind() -> None:
    images, labels = shape_pictures(60, seed=1)
    again, same_labels = shape_pictures(60, seed=1)
    others, _ = shape_pictures(60, seed=2)
    assert images.shape == (60, 3, 32, 32)
    assert images.dtype == torch.float32
    assert 0 <= images.min() < 0.3
    assert 0.7 < images.max() <= 1
    assert torch.equal(images, again)
    assert torch.equal(labels, same_labels)
    assert not torch.equal(images, others)
    assert set(labels.tolist()) == set(range(len(SHAPES)))
    assert shape_pictures(1, seed=0, side=48)[0].shape == (1, 3, 48, 48)


def test_shuffled_batches_show_each_picture_once_an_epoch_in_the_order_of_the_seed() -> None:
    labels = torch.arange(6)
    images = labels.float().reshape(6, 1, 1, 1)
    batches = list(shuffled(images, labels, steps=5, size=3, seed=0))
    assert [len(x) for x, _ in batches] == [3] * 5
    assert all(torch.equal(x.flatten().long(), y) for x, y in batches)
    order = torch.cat([y for _, y in batches]).tolist()
    assert sorted(order[:6]) == sorted(order[6:12]) == list(range(6))
    assert order == torch.cat([y for _, y in shuffled(images, labels, steps=5, size=3, seed=0)]).tolist()
    assert order != torch.cat([y for _, y in shuffled(images, labels, steps=5, size=3, seed=1)]).tolist()


def test_cifar10_is_read_as_planes_with_the_label_in_front(tmp_path: Path) -> None:
    pictures = torch.randint(0, 256, (5, 3, 32, 32), dtype=torch.uint8)
    (tmp_path / "batches.meta.txt").write_text("\n".join("abcdefghij"))
    (tmp_path / "test_batch.bin").write_bytes(b"not for training")
    for i, label in enumerate((7, 2, 0, 9, 1)):
        (tmp_path / f"data_batch_{i + 1}.bin").write_bytes(bytes([label]) + pictures[i].numpy().tobytes())
    images, labels = cifar_pictures(tmp_path)
    torch.testing.assert_close(images, pictures.float() / 255)
    assert labels.tolist() == [7, 2, 0, 9, 1]


def test_gradient_norms_are_those_of_autograd_and_leave_the_model_alone() -> None:
    model = tiny().eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    images, labels = torch.rand(8, 3, 12, 12), torch.arange(8) % 4
    found = gradient_norms(model, images, labels)
    assert not model.training
    assert all(weight.grad is None for weight in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())

    network: Any = model.backbone
    loss = F.cross_entropy(model.train()(images), labels)
    modules = {"stem": [network.conv1, network.bn1], "layer1.0": [network.layer1[0]], "layer1.1": [network.layer1[1]]}
    assert [name for name, _ in found] == list(modules)
    for name, norm in found:
        weights = [weight for module in modules[name] for weight in module.parameters()]
        gradients = torch.autograd.grad(loss, weights, retain_graph=True)
        assert norm == pytest.approx(sum(float((g**2).sum()) for g in gradients) ** 0.5, rel=1e-5)


# Stem and blocks; pre-activation has a norm after each stage, DenseNet 4 blocks, 3 transitions and 4 norms.
BLOCKS = [("plain20", 1 + 9), ("resnet56", 1 + 27), ("resnetv2_110", 1 + 54 + 3), ("densenet121", 1 + 4 + 3 + 4)]


@pytest.mark.parametrize(("name", "blocks"), BLOCKS)
def test_blocks_hold_every_weight_once_from_the_input_to_the_output(name: str, blocks: int) -> None:
    with torch.device("meta"):
        backbone = create_backbone(name)
    found = block_weights(backbone)
    assert len(found) == blocks
    assert next(iter(found)) == "stem"
    held = [id(weight) for weights in found.values() for weight in weights]
    assert held == [id(weight) for weight in backbone.parameters()]


def test_the_rate_rises_to_its_value_and_stays() -> None:
    rate = warm_up(0.1, steps=4)
    assert [rate(step) for step in range(6)] == pytest.approx([0.02, 0.04, 0.06, 0.08, 0.1, 0.1])
    assert warm_up(0.1, steps=0)(0) == 0.1


def test_training_learns_and_repeats_itself() -> None:
    images, labels = shape_pictures(16, seed=0)

    def losses(seed: int) -> list[float]:
        torch.manual_seed(seed)
        model = PooledClassifier(create_backbone("resnet20"), len(SHAPES))
        batches = shuffled(images, labels, steps=8, size=16, seed=seed)
        return list(train(model, batches, rate=warm_up(0.05, 2)))

    first = losses(0)
    assert first == losses(0)
    assert first[0] != losses(1)[0]
    assert first[-1] < first[0]


def test_the_first_step_is_that_of_sgd() -> None:
    model = tiny()
    batch = shape_pictures(4, seed=0)
    weight = model.linear.weight
    old = weight.detach().clone()
    (slope,) = torch.autograd.grad(F.cross_entropy(model.train()(batch[0]), batch[1]), weight)
    list(islice(train(model, [batch], rate=lambda step: 0.1), 1))
    torch.testing.assert_close(weight.detach(), old - 0.1 * (slope + 1e-4 * old))


# --- the command ---------------------------------------------------------------------------------------------------


Command = Callable[..., Any]


@pytest.fixture
def command(cli: Command) -> Command:
    return partial(cli, "backbones", "degradation")


SHORT = ("--steps", 2, "--batch-size", 4, "--device", "cpu")


def test_the_command_leaves_a_log_two_pictures_and_a_summary(command: Command, tmp_path: Path) -> None:
    import cv2

    folder = tmp_path / "out"
    done = command("--output", folder, "--names", "plain20", "--names", "resnet20", *SHORT)
    assert done.status == 0, done.err
    assert {path.name for path in folder.iterdir()} == {"log.jsonl", "losses.png", "gradients.png", "summary.json"}
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    networks = ("plain20", "resnet20")
    assert [(line["network"], line["step"]) for line in log] == [(n, step) for n in networks for step in (1, 2)]
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["settings"]["batch_size"] == 4
    for name in networks:
        found = summary["networks"][name]
        assert found["loss"] == [line["loss"] for line in log if line["network"] == name][-1]
        assert found["seconds_per_step"] > 0
        for norms in found["gradient"].values():
            assert 0 < norms["min"] <= norms["first"] <= norms["max"]
        assert f"{found['loss']:.4f}" in done.out
    for picture in ("losses.png", "gradients.png"):
        pixels = cv2.imread(str(folder / picture))
        assert pixels is not None
        assert min(pixels.shape[:2]) > 300
        assert pixels.std() > 5


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--names", "plain2O"], ["unknown backbone 'plain2O'", "Did you mean 'plain20'?"]),
        (["--steps", 0], ["steps=0", "at least 1"]),
        (["--batch-size", 1], ["batch_size=1"]),
        (["--lr", 0], ["lr=0"]),
        (["--data", "/nowhere"], ["/nowhere lacks data_batch_1.bin"]),
        (["--device", "cuda:99"], ["'cuda:99' is not on this machine"]),
    ],
)
def test_the_command_refuses(command: Command, tmp_path: Path, arguments: list[object], parts: list[str]) -> None:
    refused(command("--output", tmp_path / "out", *SHORT, *arguments), *parts)
    assert not (tmp_path / "out").exists()


def test_the_command_leaves_a_full_folder_alone(command: Command, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("precious")
    refused(command("--output", tmp_path, *SHORT), "exists already", "--output")
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


@pytest.mark.parametrize(
    ("content", "part"),
    [(b"\x01" * 3072, "3072 bytes"), (b"", "0 bytes"), (b"\x0a" + bytes(3072), "has class 10")],
)
def test_the_command_refuses_what_is_no_cifar10(command: Command, tmp_path: Path, content: bytes, part: str) -> None:
    (tmp_path / "batches.meta.txt").write_text("\n".join("abcdefghij"))
    for i in range(1, 6):
        (tmp_path / f"data_batch_{i}.bin").write_bytes(content)
    refused(command("--output", tmp_path / "out", "--data", tmp_path, *SHORT), "data_batch_1.bin", part)


def refused(done: Any, *parts: str) -> None:
    """Check status, and that standard error is one line which holds all the parts."""
    assert done.status == 2, (done.out, done.err)
    lines = done.err.strip().splitlines()
    assert len(lines) == 1, done.err
    for part in ("error: ", *parts):
        assert part in lines[0]
