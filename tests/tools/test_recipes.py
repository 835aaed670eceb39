"""Run files of published models, held against what their publishers print; and the line about the learning rate."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from vertebra.tools.build import build_model
from vertebra.tools.config import CONFIGS, compose
from vertebra.tools.recipes import rate_line
from vertebra.tools.settings import Config

RUNS = CONFIGS / "runs"

# detectron2's MODEL_ZOO.md, with the solver of each file under its configs/: head, backbone, steps, box AP, mask AP.
DETECTRON2: dict[str, tuple[str, str, int, float, float | None]] = {
    "faster_rcnn_R_50_FPN_1x": ("faster_rcnn", "resnet50", 90000, 37.9, None),
    "faster_rcnn_R_50_FPN_3x": ("faster_rcnn", "resnet50", 270000, 40.2, None),
    "faster_rcnn_R_101_FPN_3x": ("faster_rcnn", "resnet101", 270000, 42.0, None),
    "faster_rcnn_X_101_32x8d_FPN_3x": ("faster_rcnn", "resnext101_32x8d", 270000, 43.0, None),
    "mask_rcnn_R_50_FPN_1x": ("mask_rcnn", "resnet50", 90000, 38.6, 35.2),
    "mask_rcnn_R_50_FPN_3x": ("mask_rcnn", "resnet50", 270000, 41.0, 37.2),
    "mask_rcnn_R_101_FPN_3x": ("mask_rcnn", "resnet101", 270000, 42.9, 38.6),
    "mask_rcnn_X_101_32x8d_FPN_3x": ("mask_rcnn", "resnext101_32x8d", 270000, 44.3, 39.5),
}
DETECTRON2_MILESTONES = {90000: (60000, 80000), 270000: (210000, 250000)}

# The same of configs/new_baselines: backbone, steps, milestones, steps of warm-up, box AP, mask AP. The warm-up is 500
# of 184,375 steps as a share, so that it is four times as long where the schedule is.
LSJ = {
    "mask_rcnn_R_50_FPN_100ep_LSJ": ("resnet50", 184375, (163889, 177546), 500, 44.6, 40.3),
    "mask_rcnn_R_50_FPN_400ep_LSJ": ("resnet50", 737500, (655556, 710184), 2000, 47.4, 42.5),
    "mask_rcnn_R_101_FPN_100ep_LSJ": ("resnet101", 184375, (163889, 177546), 500, 46.4, 41.6),
    "mask_rcnn_R_101_FPN_400ep_LSJ": ("resnet101", 737500, (655556, 710184), 2000, 48.9, 43.7),
}

# torchvision's references/ and pull requests 5763 and 5773: head, batch size, rate, weight decay, epochs, milestones.
TORCHVISION: dict[str, tuple[str, int, float, float, int, tuple[int, ...]]] = {
    "fasterrcnn_resnet50_fpn": ("faster_rcnn", 16, 0.02, 1e-4, 26, (16, 22)),
    "maskrcnn_resnet50_fpn": ("mask_rcnn", 16, 0.02, 1e-4, 26, (16, 22)),
    "fasterrcnn_resnet50_fpn_v2": ("faster_rcnn_v2", 64, 0.1, 4e-5, 400, (352, 384)),
    "maskrcnn_resnet50_fpn_v2": ("mask_rcnn_v2", 64, 0.1, 4e-5, 400, (352, 384)),
    "deeplabv3_resnet50": ("deeplabv3", 32, 0.02, 1e-4, 30, ()),
    "deeplabv3_resnet101": ("deeplabv3", 32, 0.02, 1e-4, 30, ()),
}


def read(name: str) -> Config:
    return compose(name, {}, (), ())


def comment(name: str) -> str:
    """Return the comment at the top of a run file, as one line."""
    lines = (RUNS / f"{name}.yaml").read_text().splitlines()
    return " ".join(line.removeprefix("#").strip() for line in lines if line.startswith("#"))


def figures(box: float | None = None, mask: float | None = None) -> list[str]:
    return [f"{kind} AP {value:.1f}" for kind, value in (("box", box), ("mask", mask)) if value is not None]


def optimiser(config: Config) -> tuple[Any, ...]:
    optim = config.optim
    return optim.name, optim.batch_size, optim.lr, optim.momentum, optim.weight_decay


def test_every_published_run_file_is_in_a_table() -> None:
    published = {f"detectron2_{name}" for name in (*DETECTRON2, *LSJ)} | {f"torchvision_{name}" for name in TORCHVISION}
    assert {path.stem for path in RUNS.glob("*_*.yaml")} == published


@pytest.mark.parametrize("name", DETECTRON2)
def test_detectron2(name: str) -> None:
    head, backbone, steps, box, mask = DETECTRON2[name]
    config = read(f"detectron2_{name}")
    assert (config.choices.head, config.choices.backbone, config.choices.data) == (head, backbone, "coco")
    assert config.backbone.weights == "torchvision_v1"
    # Base-RCNN-FPN.yaml, and the defaults of config/defaults.py: frozen norms, stem and res2 frozen.
    assert (config.backbone.norm, config.backbone.frozen_stages) == ("frozen_batch", 2)
    assert optimiser(config) == ("sgd", 16, 0.02, 0.9, 1e-4)
    schedule = config.schedule
    assert (schedule.steps, schedule.milestones, schedule.gamma) == (steps, DETECTRON2_MILESTONES[steps], 0.1)
    assert (schedule.warmup_steps, schedule.warmup_factor) == (1000, 0.001)
    assert (config.transforms.preset, config.transforms.longest) == ("multiscale", 1333)
    assert config.transforms.shorts == (640, 672, 704, 736, 768, 800)
    assert config.head.test_size == (800, 1333)
    proposals = config.head.rpn_pre_nms_top_n_train, config.head.rpn_post_nms_top_n_train
    assert proposals == (2000, 1000)
    assert (config.data.empty_ratio, config.data.sampling.group_shapes) == (0, True)
    assert re.findall(r"(?:box|mask) AP \d+\.\d", comment(f"detectron2_{name}")) == figures(box, mask)


@pytest.mark.parametrize("name", LSJ)
def test_detectron2_with_large_scale_jitter(name: str) -> None:
    backbone, steps, milestones, warmup, box, mask = LSJ[name]
    config = read(f"detectron2_{name}")
    assert (config.choices.head, config.choices.backbone, config.choices.data) == ("mask_rcnn_v2", backbone, "coco")
    assert (config.backbone.weights, config.backbone.frozen_stages) == (None, 0)
    norms = config.backbone.norm, config.head.fpn_norm, config.head.head_norm
    assert norms == ("sync_batch", "sync_batch", "sync_batch")
    # Two convolutions in the RPN, four and a linear layer of 1,024 in the box head.
    assert (config.head.rpn_convs, config.head.box_convs, config.head.box_head_channels) == (2, 4, 1024)
    assert optimiser(config) == ("sgd", 64, 0.1, 0.9, 4e-5)
    schedule = config.schedule
    assert (schedule.steps, schedule.milestones, schedule.gamma) == (steps, milestones, 0.1)
    assert (schedule.warmup_steps, schedule.warmup_factor) == (warmup, 0.067)
    assert (config.transforms.preset, config.head.test_size) == ("lsj", (800, 1333))
    assert re.findall(r"(?:box|mask) AP \d+\.\d", comment(f"detectron2_{name}")) == figures(box, mask)


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvision(name: str) -> None:
    from torchvision.models import get_model_weights

    head, batch_size, rate, decay, epochs, milestones = TORCHVISION[name]
    config = read(f"torchvision_{name}")
    assert (config.choices.head, config.choices.backbone) == (head, re.search(r"resnet\d+", name)[0])
    assert optimiser(config) == ("sgd", batch_size, rate, 0.9, decay)
    assert (config.schedule.epochs, config.schedule.steps) == (epochs, None)
    if milestones:
        assert (config.schedule.decay, config.schedule.milestones) == ("multistep", milestones)
        assert (config.schedule.warmup_steps, config.schedule.warmup_factor) == (1000, 0.001)
        assert (config.choices.data, config.data.empty_ratio) == ("coco", 0)
    else:
        assert (config.schedule.decay, config.schedule.power, config.schedule.warmup_steps) == ("poly", 0.9, 0)
    from_random = name.endswith("_v2")
    assert config.backbone.weights == (None if from_random else "torchvision_v1")
    # The figures are those that torchvision records with the weights.
    (weights,) = get_model_weights(name)
    (measured,) = weights.meta["_metrics"].values()
    words = {"box_map": "box AP", "mask_map": "mask AP", "miou": "mean IoU", "pixel_acc": "pixel accuracy"}
    for key, value in measured.items():
        assert f"{words[key]} {value:.1f}" in comment(f"torchvision_{name}")


def test_torchvisions_norms_and_transforms() -> None:
    names = "fasterrcnn_resnet50_fpn", "maskrcnn_resnet50_fpn_v2", "deeplabv3_resnet50"
    first, second, deeplab = (read(f"torchvision_{name}") for name in names)
    assert (first.backbone.norm, first.backbone.frozen_stages) == ("frozen_batch", 2)
    assert (first.transforms.preset, first.head.test_size) == ("default", (800, 1333))
    assert (second.backbone.norm, second.head.fpn_norm, second.head.head_norm) == ("sync_batch",) * 3
    assert (second.backbone.frozen_stages, second.transforms.preset) == (0, "lsj")
    assert (deeplab.backbone.norm, deeplab.head.head_norm, deeplab.backbone.output_stride) == ("sync_batch",) * 2 + (8,)
    transforms = deeplab.transforms
    assert (transforms.short, transforms.crop, transforms.scale) == (520, (480, 480), (0.5, 2.0))
    assert (deeplab.choices.data, deeplab.data.labels.overlaps, deeplab.head.aux_weight) == ("coco_voc", "ignore", 0.5)


@pytest.mark.parametrize("name", TORCHVISION)
def test_the_models_of_torchvisions_recipes_have_its_parameters(name: str) -> None:
    from torchvision.models import get_model_weights

    (weights,) = get_model_weights(name)
    labels = len(weights.meta["categories"])
    config = read(f"torchvision_{name}")
    with torch.device("meta"):
        model = build_model(config, labels - config.head.model.first_label)
    assert sum(parameter.numel() for parameter in model.parameters()) == weights.meta["num_params"]


@pytest.mark.parametrize("name", [*DETECTRON2, *LSJ])
def test_the_models_of_detectron2s_recipes_can_be_built(name: str) -> None:
    with torch.device("meta"):
        model = build_model(read(f"detectron2_{name}"), 80)
    frozen = {not p.requires_grad for p in model.backbone.body.layer1.parameters()}
    assert frozen == {name in DETECTRON2}


@pytest.mark.parametrize("path", sorted(RUNS.glob("*_*.yaml")), ids=lambda path: path.stem)
def test_a_published_run_file_says_whose_figures_it_has(path: Path) -> None:
    assert "by its publisher" in comment(path.stem)
    assert "This project has not measured it." in comment(path.stem)
    assert "Differences: " in comment(path.stem)


@pytest.mark.parametrize(
    ("schedule", "overrides", "line"),
    [
        ("1x", [], "learning rate 0.02 for 16 images a step (as 1x)"),
        ("1x", ["optim.batch_size=4"], "learning rate 0.005 for 4 images a step (1x: 0.02 for 16, scaled)"),
        ("1x", ["optim.lr=0.01"], "learning rate 0.01 for 16 images a step (1x: 0.02 for 16)"),
        ("1x", ["optim.name=adamw", "optim.lr=1e-4"], "learning rate 0.0001 for 16 images a step"),
    ],
)
def test_rate_line(schedule: str, overrides: list[str], line: str) -> None:
    assert rate_line(compose(None, {"schedule": schedule}, (), overrides)) == line


def test_rate_line_without_a_published_rate(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("optim: {lr: 0.5}\n")
    config = compose(None, {"schedule": str(path)}, (), ())
    assert rate_line(config) == "learning rate 0.5 for 16 images a step"
    path.unlink()  # a run can be continued without the file that its schedule came from
    assert rate_line(config) == "learning rate 0.5 for 16 images a step"
