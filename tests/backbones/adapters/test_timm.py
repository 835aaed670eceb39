"""Our backbones among timm's models: timm's contract, its training loop, its checkpoints and its ways to weights."""

import logging
import math
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_model_data_config
from timm.layers import freeze_batch_norm_2d
from timm.loss import LabelSmoothingCrossEntropy
from timm.models import load_checkpoint, model_parameters
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.task import ClassificationTask, resume_task_checkpoint
from timm.utils import CheckpointSaver, dispatch_clip_grad
from torch import Tensor, nn

import vertebra
from vertebra.backbones import registry
from vertebra.backbones.adapters import timm as adapter
from vertebra.backbones.records import WeightsRecord

Randomise = Callable[[nn.Module], nn.Module]

IMAGES = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
SMALL = IMAGES[..., :32, :32]
LABELS = torch.tensor([0, 1, 2, 3])
CPU = torch.device("cpu")


def build(name: str, **options: Any) -> Any:
    torch.manual_seed(0)
    return timm.create_model(f"vertebra_{name}", **options)


def bare(name: str, **options: Any) -> vertebra.Backbone:
    """Return our own backbone with every level, the stem's included."""
    return vertebra.create_backbone(name, out_features=lambda levels: [info.name for info in levels], **options)


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> None:
    """A registry whose additions are forgotten afterwards."""
    monkeypatch.setattr(registry, "_REGISTRY", dict(registry._REGISTRY))


# --- features -------------------------------------------------------------------------------------------------------


def test_features_are_those_of_the_bare_backbone(family: str, randomise_statistics: Randomise) -> None:
    network = build(family, features_only=True).eval()
    twin = bare(family).eval()
    randomise_statistics(twin)
    network.model.body.load_state_dict(twin.state_dict())
    maps = network(IMAGES)
    assert isinstance(maps, list)
    expected = twin(IMAGES)
    assert len(maps) == len(expected)
    assert all(torch.equal(x, y) for x, y in zip(maps, expected.values(), strict=True))
    assert network.feature_info.channels() == [info.channels for info in twin.feature_info]
    assert network.feature_info.reduction() == [info.stride for info in twin.feature_info]
    assert network.feature_info.channels() == [x.shape[1] for x in maps]
    taps = network.feature_info.module_name()
    assert len(set(taps)) == len(maps)
    if family != "small_own":  # of somebody's own network it is not known which modules they are
        assert all(network.model.get_submodule(name) for name in taps)


@pytest.mark.parametrize("indices", [(1, 2, 3, 4), (0, 2), 2, (-2, -1), (-5, 1), (3,)])
def test_levels_are_counted_as_timm_counts_them(indices: Any) -> None:
    with torch.device("meta"):
        theirs = timm.create_model("resnet50d", features_only=True, out_indices=indices)
        ours = build("resnet50d", features_only=True, out_indices=indices)
        maps = ours(torch.empty(1, 3, 64, 64))
    assert ours.feature_info.channels() == theirs.feature_info.channels()
    assert ours.feature_info.reduction() == theirs.feature_info.reduction()
    assert [dict["num_chs"] for dict in ours.feature_info.get_dicts()] == [x.shape[1] for x in maps]
    deepest = max(ours.feature_info.out_indices)
    built = {name for name, _ in ours.model.body.named_children() if name.startswith("layer")}
    assert built == {f"layer{i}" for i in range(1, deepest + 1)}  # the rest is not there, nor is a classifier
    assert not any("head" in name for name, _ in ours.named_parameters())


def test_levels_come_in_order_whatever_order_they_are_asked_in() -> None:
    network = build("resnet18", features_only=True, out_indices=(3, 1))
    assert network.feature_info.channels() == [64, 256] == [x.shape[1] for x in network(IMAGES)]


def test_intermediates() -> None:
    model = build("resnet18", num_classes=7).eval()
    twin = bare("resnet18").eval()
    model.body.load_state_dict(twin.state_dict())
    expected = list(twin(IMAGES).values())
    final, maps = model.forward_intermediates(IMAGES, indices=[1, 3])
    assert all(map(torch.equal, [final, *maps], [expected[4], expected[1], expected[3]]))
    (last,) = model.forward_intermediates(IMAGES, indices=1, intermediates_only=True)
    assert torch.equal(last, model.forward_features(IMAGES))
    assert len(model.forward_intermediates(IMAGES, intermediates_only=True)) == 5
    with pytest.raises(vertebra.InputError, match="output_fmt='NLC'; maps are NCHW"):
        model.forward_intermediates(IMAGES, output_fmt="NLC")
    assert model.prune_intermediate_layers([0, 2]) == [0, 2]
    assert (model.num_classes, model.num_features, model.head_hidden_size) == (0, 128, 128)
    assert torch.equal(model(IMAGES), expected[2])


@pytest.mark.parametrize("name", ["resnet50", "densenet121"])
def test_a_network_that_both_have_is_the_same(
    name: str, tmp_path: Path, randomise_statistics: Randomise, later: None
) -> None:
    torch.manual_seed(0)
    theirs = timm.create_model(name).eval()
    randomise_statistics(theirs)
    torch.save(theirs.state_dict(), tmp_path / "theirs.pth")
    overlay = {"file": str(tmp_path / "theirs.pth")}
    ours = build(name, pretrained=True, pretrained_cfg_overlay=overlay).eval()
    with torch.no_grad():
        torch.testing.assert_close(ours(IMAGES), theirs(IMAGES))
        torch.testing.assert_close(ours.forward_features(IMAGES), theirs.forward_features(IMAGES))
        pre_logits = ours.forward_head(ours.forward_features(IMAGES), pre_logits=True)
        torch.testing.assert_close(pre_logits, theirs.forward_head(theirs.forward_features(IMAGES), pre_logits=True))
        expected = theirs.forward_intermediates(IMAGES, intermediates_only=True)
        if name == "densenet121":  # timm gives what comes before the norm and the activation of the transition
            for i in (1, 2, 3):
                expected[i] = theirs.features.get_submodule(f"transition{i}").norm(expected[i])
        network = build(name, pretrained=True, pretrained_cfg_overlay=overlay, features_only=True).eval()
        for x, y in zip(network(IMAGES), expected, strict=True):
            torch.testing.assert_close(x, y)
    for key in ("num_chs", "reduction"):
        assert [info[key] for info in ours.feature_info] == [info[key] for info in theirs.feature_info]
    assert (ours.num_features, ours.head_hidden_size) == (theirs.num_features, theirs.head_hidden_size)


# --- the classifier -------------------------------------------------------------------------------------------------


def train(model: nn.Module, steps: int, **options: Any) -> tuple[ClassificationTask, torch.optim.Optimizer]:
    """Do what timm's train.py does in an epoch, by the same calls."""
    criterion = LabelSmoothingCrossEntropy(0.1)
    task = ClassificationTask(model, criterion=criterion, device=CPU, verbose=False)
    optimizer = create_optimizer_v2(model, **{"opt": "sgd", "lr": 0.1, "weight_decay": 0.05, **options})
    task.setup_ema(decay=0.9)
    scheduler, _ = create_scheduler_v2(
        optimizer, sched="cosine", num_epochs=2, warmup_epochs=0, step_on_epochs=False, updates_per_epoch=steps
    )
    task.get_trainable_module().train()
    for step in range(1, steps + 1):
        task(SMALL, LABELS)["loss"].backward()
        dispatch_clip_grad(model_parameters(model), value=1.0, mode="norm")
        optimizer.step()
        optimizer.zero_grad()
        task.update_ema(step=step)
        scheduler.step_update(step)
    return task, optimizer


def test_a_training_step_and_an_evaluation_step(family: str) -> None:
    model = build(family, num_classes=5, drop_rate=0.1)
    LabelSmoothingCrossEntropy(0.1)(model(IMAGES), LABELS).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    with torch.no_grad():
        logits = model.eval()(IMAGES)
        assert logits.shape == (4, 5)
        torch.testing.assert_close(logits[1:2], model(IMAGES[1:2]), rtol=1e-4, atol=1e-5)


def test_timms_own_checkpoint(family: str, tmp_path: Path) -> None:
    model = build(family, num_classes=5)
    task, optimizer = train(model, steps=2)
    saver = CheckpointSaver(model, optimizer, checkpoint_dir=str(tmp_path), recovery_dir=str(tmp_path), task=task)
    saver.save_checkpoint(0, metric=1.0)
    (last,) = tmp_path.glob("last.*")
    expected = model.eval()(SMALL)
    resumed = build(family, num_classes=5).eval()
    assert not torch.equal(resumed(SMALL), expected)
    again = ClassificationTask(resumed, criterion=nn.CrossEntropyLoss(), device=CPU, verbose=False)
    assert resume_task_checkpoint(again, str(last), log_info=False) == 1
    assert torch.equal(resumed(SMALL), expected)
    averaged = task.get_eval_model(ema=True).eval()(SMALL)
    assert torch.equal(build(family, num_classes=5, checkpoint_path=str(last)).eval()(SMALL), averaged)
    plain = build(family, num_classes=5)
    load_checkpoint(plain, str(last), use_ema=False)
    assert torch.equal(plain.eval()(SMALL), expected)
    # As pretrained weights: into features, and under another number of classes.
    overlay = {"file": str(last)}
    network = build(family, features_only=True, pretrained=True, pretrained_cfg_overlay=overlay).eval()
    tuned = build(family, num_classes=6, pretrained=True, pretrained_cfg_overlay=overlay).eval()
    ema = task.get_eval_model(ema=True).module
    assert torch.equal(network(SMALL)[-1], ema.forward_features(SMALL))
    assert torch.equal(tuned.forward_features(SMALL), ema.forward_features(SMALL))


def test_the_head_is_timms(randomise_statistics: Randomise) -> None:
    model = build("resnet18", num_classes=10, in_chans=1, drop_rate=0.3, global_pool="catavgmax").eval()
    assert (model.num_classes, model.num_features, model.head_hidden_size) == (10, 512, 1024)
    assert isinstance(model.get_classifier(), nn.Linear)
    assert model.head.drop.p == 0.3
    images = IMAGES[:, :1]
    deepest = model.forward_features(images)
    assert model.forward_head(deepest, pre_logits=True).shape == (4, 1024)
    assert torch.equal(model(images), model.forward_head(deepest))
    model.reset_classifier(3, "avg")
    assert (model.num_classes, model.head_hidden_size, model(images).shape) == (3, 512, (4, 3))
    model.reset_classifier(0)
    torch.testing.assert_close(model(images), deepest.mean(dim=(2, 3)))
    model.reset_classifier(0, "")
    assert torch.equal(model(images), deepest)


def test_stochastic_depth_grows_as_timms_does() -> None:
    ours, theirs = build("resnet18", drop_path_rate=0.7), timm.create_model("resnet18", drop_path_rate=0.7)
    of_ours = [drop.p for drop in ours.modules() if type(drop).__name__ == "StochasticDepth"]
    of_theirs = [drop.drop_prob for drop in theirs.modules() if type(drop).__name__ == "DropPath"]
    assert max(of_ours) == max(of_theirs) == 0.7
    with pytest.raises(vertebra.InputError, match=r"'densenet121' does not take drop_path=0\.1"):
        build("densenet121", drop_path_rate=0.1)


@pytest.mark.parametrize("name", ["small_resnet18", "small_densenet121"])
def test_checkpointing_changes_no_gradient(name: str) -> None:
    gradients = []
    for enable in (False, True):
        model = build(name, num_classes=5).double()
        model.set_grad_checkpointing(enable)
        nn.functional.cross_entropy(model(IMAGES.double()), LABELS).backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    torch.testing.assert_close(*gradients)
    recompute = [module for module in model.modules() if getattr(module, "recomputes", False)]
    assert recompute
    model.set_grad_checkpointing(False)
    assert not any(module.recomputes for module in recompute)


@pytest.mark.parametrize(
    ("name", "layers", "stages"),
    [
        ("resnet50", 1 + (3 + 4 + 6 + 3) + 1, 6),  # the stem, the blocks, the classifier
        # Transitions, and the norms behind the blocks, are layers too.
        ("densenet121", 1 + (6 + 12 + 24 + 16) + (3 + 4) + 1, 6),
        ("vgg16_bn", 1 + (2 + 3 + 3 + 3) + 1, 6),  # the first two convolutions are the stem
    ],
)
def test_layer_decay(name: str, layers: int, stages: int) -> None:
    model = build(name)
    optimizer = create_optimizer_v2(model, opt="adamw", lr=1.0, weight_decay=0.05, layer_decay=0.9)
    scales = {id(p): group["lr_scale"] for group in optimizer.param_groups for p in group["params"]}
    assert len(scales) == len(list(model.parameters()))
    assert sorted(set(scales.values())) == pytest.approx([0.9**i for i in reversed(range(layers))])
    in_order = [scales[id(parameter)] for parameter in model.parameters()]
    assert in_order == sorted(in_order)
    assert in_order[0] == pytest.approx(0.9 ** (layers - 1))
    assert [scales[id(p)] for p in model.get_classifier().parameters()] == [1, 1]
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0, 0.05}
    assert len(timm.models.group_parameters(model, model.group_matcher(coarse=True))) == stages


# --- freezing -------------------------------------------------------------------------------------------------------


def test_frozen_stages_do_not_move_in_timms_loop(family: str, randomise_statistics: Randomise) -> None:
    model = build(family, num_classes=5, frozen_stages=2)
    randomise_statistics(model)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    names = {module: name for name, module in model.named_modules()}
    frozen = tuple(f"{names[module]}." for stage in model.body.stages()[:2] for module in stage)
    task, _ = train(model, steps=10)
    moves = {key: not torch.equal(value, before[key]) for key, value in model.state_dict().items()}
    assert {key for key, moved in moves.items() if key.startswith(frozen) and moved} == set()
    assert any(key.startswith(frozen) for key in moves)
    learns = [key for key in moves if not key.startswith(frozen)]
    still = {key for key in learns if not moves[key]}
    assert {key for key in still if before[key].ndim > 1 or "running" in key} == set()
    averaged = task.get_eval_model(ema=True).module.state_dict()
    assert all(torch.equal(averaged[key], before[key]) for key in before if key.startswith(frozen))


@pytest.mark.parametrize("name", ["small_resnet50", "small_densenet121", "small_resnetv2_50"])
def test_frozen_norms_do_not_move_in_timms_loop(name: str, tmp_path: Path, randomise_statistics: Randomise) -> None:
    source = build(name, num_classes=5)
    randomise_statistics(source)
    torch.save(source.state_dict(), tmp_path / "model.pth")
    overlay = {"file": str(tmp_path / "model.pth")}
    ours = build(name, num_classes=5, norm="frozen_batch", pretrained=True, pretrained_cfg_overlay=overlay)
    theirs = freeze_batch_norm_2d(build(name, num_classes=5, checkpoint_path=str(tmp_path / "model.pth")))
    expected = source.eval()(IMAGES)
    for model in (ours, theirs):
        torch.testing.assert_close(model.eval()(IMAGES), expected)
        buffers = [buffer.clone() for buffer in model.buffers()]
        train(model, steps=10)
        assert all(map(torch.equal, buffers, model.buffers()))
        assert not torch.equal(model.eval()(IMAGES), expected)


# --- preprocessing --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [3, 1])
def test_preprocessing(channels: int, randomise_statistics: Randomise) -> None:
    # timm trained these weights on values in [-1, 1], the network's own preprocessing is ImageNet's.
    tag = "vertebra_resnetv2_18.timm_ra4_e3600_r224_in1k"
    overlay = {"input_size": (3, 64, 64), "crop_pct": 1.0}
    network = timm.create_model(tag, features_only=True, in_chans=channels, pretrained_cfg_overlay=overlay).eval()
    randomise_statistics(network)
    body = network.model.body
    config = resolve_model_data_config(network)
    assert config["mean"] == body.preprocessing.mean == (0.5,) * channels
    assert config["input_size"] == (channels, 64, 64)
    pixels = torch.randint(0, 256, (64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    picture = Image.fromarray(pixels.numpy()).convert("RGB" if channels == 3 else "L")
    ours = body.preprocessing.normalise(vertebra_image(picture))
    theirs = create_transform(**config)(picture)
    expected = list(body(ours[None]).values())
    assert all(map(torch.equal, network(theirs[None]), expected))
    assert not torch.equal(network(theirs[None] + 0.1)[-1], expected[-1])


def vertebra_image(picture: Image.Image) -> Tensor:
    """Return (C, H, W) uint8."""
    values = torch.tensor(list(picture.tobytes()), dtype=torch.uint8)
    return values.reshape(64, 64, -1).permute(2, 0, 1)


def test_a_network_without_records_keeps_its_own_preprocessing(later: None) -> None:
    def builder(*, in_channels: int) -> vertebra.Backbone:
        network = vertebra.row("resnet20")(in_channels=in_channels, output_stride=32, norm=nn.BatchNorm2d)
        network.preprocessing = vertebra.Preprocessing((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
        return network

    vertebra.register_backbone("with_means")(builder)
    config = resolve_model_data_config(build("with_means"))
    assert (config["mean"], config["std"]) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))


# --- weights --------------------------------------------------------------------------------------------------------


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, later: None) -> dict[str, Tensor]:
    """A backbone `published` with two sets of public weights, each with a classifier for 1000 classes."""
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))
    row = replace(vertebra.row("resnet18"), depths=(1, 1, 1, 1), widths=(16, 16, 32, 32))
    records = []
    states = []
    for i, tag in enumerate(("first_in1k", "other_in1k")):
        torch.manual_seed(i + 1)
        network = row(in_channels=3, output_stride=32, norm=nn.BatchNorm2d)
        state = {**network.state_dict(), "fc.weight": torch.randn(1000, 32), "fc.bias": torch.randn(1000)}
        file = tmp_path / f"{tag}.pth"
        torch.save(state, file)
        means = vertebra.Preprocessing((0.1 + i,) * 3, (0.2,) * 3)
        records.append(WeightsRecord(tag, file.as_uri(), "me", means, input_size=160, top1=70.0 - i, eps=1e-3))
        states.append(state)
    vertebra.register_backbone("published", weights=records)(row)
    return states[0]


def logits(state: dict[str, Tensor], name: str = "published") -> Tensor:
    """Return what the published classifier says, by our own backbone."""
    network = vertebra.create_backbone(name, weights="imagenet").eval()
    deepest = list(network(IMAGES).values())[-1].mean(dim=(2, 3))
    return nn.functional.linear(deepest, state["fc.weight"], state["fc.bias"])


def test_pretrained(published: dict[str, Tensor]) -> None:
    model = build("published", pretrained=True).eval()
    torch.testing.assert_close(model(IMAGES), logits(published))
    config = model.pretrained_cfg
    assert (config["tag"], config["architecture"]) == ("first_in1k", "vertebra_published")
    assert (config["mean"], config["std"], config["input_size"]) == ((0.1,) * 3, (0.2,) * 3, (3, 160, 160))
    assert (config["classifier"], config["first_conv"]) == ("head.fc", "body.conv1")
    assert model.default_cfg is config
    assert model.get_submodule(config["classifier"]) is model.get_classifier()
    assert model.body.bn1.eps == 1e-3
    assert "state_dict" not in config


def test_pretrained_by_its_tag(published: dict[str, Tensor]) -> None:
    model = build("published.other_in1k", pretrained=True)
    assert model.pretrained_cfg["mean"] == model.body.preprocessing.mean == (1.1,) * 3
    assert not torch.equal(model.body.conv1.weight, published["conv1.weight"])
    assert torch.equal(build("published.first_in1k", pretrained=True).body.conv1.weight, published["conv1.weight"])
    with pytest.raises(
        vertebra.InputError, match=r"unknown weights tag of published 'nope'.*first_in1k, imagenet, other"
    ):
        build("published.nope", pretrained=True)
    with pytest.raises(vertebra.InputError, match="no public weights for 'resnet20'"):
        build("resnet20", pretrained=True)


def test_another_number_of_classes_and_of_channels(
    published: dict[str, Tensor], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        model = build("published", pretrained=True, num_classes=10, in_chans=1)
    assert "first_in1k: no classifier for 10 classes, so head.fc stays as initialised" in caplog.messages
    assert model.head.fc.weight.shape == (10, 32)
    torch.testing.assert_close(model.body.conv1.weight, published["conv1.weight"].sum(dim=1, keepdim=True))
    assert model.pretrained_cfg["mean"] == pytest.approx((0.1,))
    network = build("published", pretrained=True, features_only=True, out_indices=(1, 2))
    assert torch.equal(network.model.body.conv1.weight, published["conv1.weight"])
    assert network.pretrained_cfg["mean"] == (0.1,) * 3


def test_a_file_of_ones_own(
    published: dict[str, Tensor], tmp_path: Path, caplog: pytest.LogCaptureFixture, later: None
) -> None:
    overlay = {"file": str(tmp_path / "other_in1k.pth"), "mean": (0.7,) * 3}
    model = build("published", pretrained=True, pretrained_cfg_overlay=overlay)
    other = torch.load(overlay["file"])
    assert torch.equal(model.get_classifier().weight, other["fc.weight"])
    assert torch.equal(model.body.conv1.weight, other["conv1.weight"])
    assert model.body.preprocessing.mean == (0.7,) * 3
    # Fewer classes: the classifier is recognised by its shape.
    other |= {"fc.weight": torch.randn(4, 32), "fc.bias": torch.randn(4)}
    small = build("published", pretrained=True, num_classes=4, pretrained_cfg_overlay={"state_dict": other})
    assert torch.equal(small.get_classifier().bias, other["fc.bias"])
    # What our own training writes.
    ours = {f"backbone.{key}": value for key, value in published.items() if not key.startswith("fc.")}
    ours |= {"head.weight": other["fc.weight"], "head.bias": other["fc.bias"]}
    tuned = build("published", pretrained=True, num_classes=4, pretrained_cfg_overlay={"state_dict": ours})
    assert torch.equal(tuned.body.conv1.weight, published["conv1.weight"])
    assert torch.equal(tuned.get_classifier().bias, other["fc.bias"])
    # Backbones are loaded whole, into features too.
    del other["bn1.weight"]
    for options in ({}, {"features_only": True}):
        with pytest.raises(vertebra.InputError, match=r"1 keys are missing \(as 'bn1\.weight'\)"):
            build("published", pretrained=True, pretrained_cfg_overlay={"state_dict": other}, **options)
    # Another cache is timm's affair.
    build("published", pretrained=True, cache_dir=tmp_path / "cache")
    assert (tmp_path / "cache" / "first_in1k.pth").is_file()


def test_a_classifier_of_several_layers_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    network = bare("small_vgg16_bn")
    sizes = [(8, 32), (8, 8), (1000, 8)]
    state = {f"classifier.{i}.weight": torch.zeros(size) for i, size in enumerate(sizes)}
    state |= {f"classifier.{i}.bias": torch.zeros(size[0]) for i, size in enumerate(sizes)}
    overlay = {"state_dict": {**network.state_dict(), **state}}
    with caplog.at_level(logging.INFO):
        model = build("small_vgg16_bn", pretrained=True, pretrained_cfg_overlay=overlay)
    assert all(torch.equal(value, model.body.state_dict()[key]) for key, value in network.state_dict().items())
    assert any("no classifier for 1000 classes" in message for message in caplog.messages)


@pytest.mark.parametrize(
    ("tag", "twin"),
    [("timm_a1_in1k", "a1_in1k"), ("torchvision_v1", "tv_in1k"), ("torchvision_v2", "tv2_in1k")],
)
def test_sizes_and_crops_are_those_that_timm_has_for_a_tag(tag: str, twin: str) -> None:
    with torch.device("meta"):
        ours, theirs = build(f"resnet50.{tag}"), timm.create_model(f"resnet50.{twin}")
    for use_test_size in (False, True):
        assert resolve_model_data_config(ours, use_test_size=use_test_size) == resolve_model_data_config(
            theirs, use_test_size=use_test_size
        )
    (record,) = [record for record in vertebra.weights_records("resnet50") if record.tag == tag]
    place = ours.pretrained_cfg.get("url") or f"hf-hub:{ours.pretrained_cfg['hf_hub_id']}"
    assert place == record.url


def test_our_own_loading_finds_the_backbone(tmp_path: Path) -> None:
    network = bare("small_resnet50")
    torch.save(network.state_dict(), tmp_path / "backbone.pth")
    model = build("small_resnet50", num_classes=5)
    vertebra.load_weights(model, tmp_path / "backbone.pth")
    assert torch.equal(model.body.conv1.weight, network.conv1.weight)
    other = build("small_resnet50", num_classes=6)
    report = vertebra.load_weights(other, model.state_dict(), reset_classes=True)
    assert report.reset_layers == ("head.fc",)
    assert torch.equal(other.body.conv1.weight, network.conv1.weight)


# --- strides, names, wrong use --------------------------------------------------------------------------------------


@pytest.mark.parametrize("stride", [8, 16])
def test_output_strides(family: str, stride: int) -> None:
    if family == "small_own":
        with pytest.raises(vertebra.InputError, match=rf"'small_own' does not take output_stride={stride}"):
            build(family, output_stride=stride)
        return
    network = build(family, features_only=True, output_stride=stride)
    strides = network.feature_info.reduction()
    assert max(strides) <= stride
    assert [x.shape[-1] for x in network(IMAGES)] == [math.ceil(64 / s) for s in strides]
    model = build(family, num_classes=5, output_stride=stride)
    assert model(IMAGES).shape == (4, 5)
    if max(info.stride for info in bare(family).feature_info) >= stride:
        assert max(strides) == stride


def test_every_name_is_there_now_and_later(later: None) -> None:
    assert {f"vertebra_{name}" for name in vertebra.list_backbones()} <= set(timm.list_models("vertebra_*"))

    def never(**_: Any) -> Any:
        raise AssertionError

    vertebra.register_backbone("registered_later", weights=never)(never)  # nothing is built and no record is read
    assert timm.is_model("vertebra_registered_later")
    assert adapter.vertebra_registered_later is timm.model_entrypoint("vertebra_registered_later")
    assert set(adapter.__all__) <= set(vars(adapter))
    assert not timm.list_models("vertebra_*", pretrained=True)  # records are read when a model is built


def test_names_that_timm_cannot_take(later: None, caplog: pytest.LogCaptureFixture) -> None:
    row = replace(vertebra.row("resnet20"), depths=(1, 1, 1))
    vertebra.register_backbone("acme/net.v2")(row)
    assert build("acme_net_v2", num_classes=5)(IMAGES).shape == (4, 5)
    assert not caplog.messages
    vertebra.register_backbone("acme.net/v2")(row)
    (message,) = caplog.messages
    assert message == "'acme.net/v2' is not in timm: there vertebra_acme_net_v2 is 'acme/net.v2'; give it another name"


def test_theirs_in_ours_takes_ours_too() -> None:
    network = vertebra.create_backbone("timm/vertebra_small_resnet18").eval()
    twin = vertebra.create_backbone("small_resnet18").eval()
    network.net.model.body.load_state_dict(twin.state_dict())
    ours, expected = network(IMAGES), twin(IMAGES)
    assert list(ours) == list(expected)
    assert all(torch.equal(ours[key], expected[key]) for key in expected)
    with pytest.raises(vertebra.InputError, match="cannot be frozen by stage"):
        vertebra.create_backbone("timm/vertebra_small_resnet18", frozen_stages=1)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"features_only": True, "out_indices": (0, 5)}, vertebra.InputError, r"^out_indices=\(0, 5\); the levels"),
        ({"features_only": True, "out_indices": 6}, vertebra.InputError, r"^out_indices=\(-6, .*are 0 \(64@2\), 1 "),
        ({"features_only": True, "feature_cls": "fx"}, vertebra.InputError, "^feature_cls='fx'; it can be 'getter'"),
        ({"output_stride": 4}, vertebra.InputError, "^output_stride=4; it can be 8, 16, 32$"),
        ({"frozen_stages": 6}, vertebra.InputError, "^frozen_stages=6, but there are 5 stages"),
        ({"norm": "layer"}, vertebra.InputError, "'layer'"),
        ({"replace_stride_with_dilation": True}, TypeError, "unexpected keyword argument 'replace_stride_with_dil"),
        ({"pretrained": True, "pretrained_cfg": {"num_classes": 5}}, RuntimeError, "No pretrained weights exist for"),
    ],
)
def test_wrong_options(options: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        build("resnet18", **options)


def test_an_unknown_name() -> None:
    with pytest.raises(RuntimeError, match=r"Unknown model \(vertebra_resnet5O\)"):
        build("resnet5O")


def test_without_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("timm", "timm.layers", "timm.models"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, adapter.__name__)
    with pytest.raises(ImportError, match="this adapter needs timm, which is not installed: pip install timm"):
        import_module(adapter.__name__)
