"""`vertebra train --weights`: what is loaded of a whole model, and what starts afresh for other classes."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import vertebra
from vertebra.backbones.weights import class_layers, recorded_norm_eps
from vertebra.heads import records
from vertebra.tools.config import compose
from vertebra.tools.data.coco import Category
from vertebra.tools.finetune import start_from
from vertebra.tools.run import open_run, trained_model
from vertebra.tools.settings import Config

Command = Callable[..., Any]

# As the generated data set has them.
CATEGORIES = ((1, "circle"), (3, "square"), (4, "triangle"), (7, "star"))
LAYERS = "roi_heads.box_predictor.cls_score, roi_heads.box_predictor.bbox_pred"


def small_model(num_classes: int = 5, seed: int = 0, norm: str = "batch") -> nn.Module:
    torch.manual_seed(seed)
    row = replace(vertebra.head_row("faster_rcnn"), fpn_channels=8, box_head_channels=16, test_size=(64, 64))
    backbone = replace(vertebra.row("resnet18"), depths=(1, 1, 1, 1), widths=(8, 8, 8, 8))
    return vertebra.create_model(row, backbone=backbone, norm=norm, num_classes=num_classes)


def start(model: nn.Module, weights: str, categories: Sequence[tuple[int, str]] = CATEGORIES, *sets: str) -> str:
    config: Config = compose(None, {"backbone": "resnet18", "schedule": "smoke"}, (), sets)
    return start_from(model, weights, config, [Category(*pair) for pair in categories])


def saved(path: Path, model: nn.Module, **facts: object) -> str:
    torch.save({"model": model.state_dict(), **facts}, path)
    return str(path)


def copy(model: nn.Module) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in model.state_dict().items()}


def assert_only_classes_are_fresh(model: nn.Module, fresh: dict[str, Tensor], source: nn.Module) -> None:
    theirs = source.state_dict()
    for key, value in model.state_dict().items():
        expected = fresh if key.startswith("roi_heads.box_predictor.") else theirs
        assert torch.equal(value, expected[key]), key


@pytest.mark.parametrize("categories", [CATEGORIES, (*CATEGORIES[:3], (7, records.UNUSED))])
def test_the_same_categories_are_loaded_with_everything(tmp_path: Path, categories: Sequence[tuple[int, str]]) -> None:
    """Also one that has the very name which torchvision's weights have for labels of no category."""
    source, model = small_model(seed=1), small_model()
    path = saved(tmp_path / "checkpoint.pt", source, categories=[list(pair) for pair in categories])
    line = start(model, path, categories)
    count = len(model.state_dict())
    assert line == f"{count} tensors loaded, 0 dropped, 0 kept as they were, from {path}"
    assert all(torch.equal(value, source.state_dict()[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize(
    "categories", [((1, "circle"), (3, "square"), (4, "triangle"), (8, "star")), CATEGORIES[:3], CATEGORIES[::-1]]
)
def test_other_categories_start_afresh(tmp_path: Path, categories: Sequence[tuple[int, str]]) -> None:
    """Another id, fewer, another order: even where the shapes would fit."""
    source, model = small_model(len(categories) + 1, seed=1), small_model()
    fresh = copy(model)
    path = saved(tmp_path / "checkpoint.pt", source, categories=[list(pair) for pair in categories])
    line = start(model, path)
    assert line.endswith(
        f"4 dropped, 0 kept as they were, from {path}; "
        f"re-initialised for 4 classes (the weights have other categories): {LAYERS}"
    )
    assert_only_classes_are_fresh(model, fresh, source)


@pytest.mark.parametrize("num_classes", [5, 9])
def test_a_file_without_categories_goes_by_the_shapes(tmp_path: Path, num_classes: int) -> None:
    source, model = small_model(num_classes, seed=1), small_model()
    fresh = copy(model)
    line = start(model, saved(tmp_path / "weights.pt", source))
    if num_classes == 5:
        assert line.endswith("; kept its class layers, which fit (it names no categories to compare)")
        assert all(torch.equal(value, source.state_dict()[key]) for key, value in model.state_dict().items())
    else:
        assert line.endswith(f"; re-initialised for 4 classes (the weights have another number of them): {LAYERS}")
        assert_only_classes_are_fresh(model, fresh, source)


def test_a_file_of_the_backbone_alone(tmp_path: Path) -> None:
    source, model = small_model(seed=1), small_model()
    torch.save(source.backbone.body.state_dict(), tmp_path / "backbone.pt")
    line = start(model, str(tmp_path / "backbone.pt"))
    count = len(model.backbone.body.state_dict())
    kept = len(model.state_dict()) - count
    assert line.startswith(f"{count} tensors loaded, 0 dropped, {kept} kept as they were, from ")
    assert "class" not in line
    assert torch.equal(model.backbone.body.conv1.weight, source.backbone.body.conv1.weight)


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    other = vertebra.create_model("faster_rcnn", backbone="resnet18", num_classes=9)
    model = small_model()
    before = copy(model)
    with pytest.raises(vertebra.InputError, match=r"checkpoint\.pt does not fit .*missing|unexpected|shape"):
        start(model, saved(tmp_path / "checkpoint.pt", other, categories=[[1, "cell"]]))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    """A public name for a small model whose labels are raw ids, 2, 5 and 6 of no category, as COCO's are."""
    source = small_model(8, seed=1, norm="frozen_batch")
    names = dict(CATEGORIES)
    record = records.model_record("torchvision/fasterrcnn_resnet50_fpn")
    record = replace(record, categories=tuple((id, names.get(id, records.UNUSED)) for id in range(1, 8)))
    monkeypatch.setattr(vertebra.WeightsRecord, "fetch", lambda record: source.state_dict())
    monkeypatch.setattr(records, "model_record", lambda name: record)
    return source


def test_a_public_name_for_the_same_categories(published: nn.Module) -> None:
    """Every category gets its rows, by hand: those of labels 0, 1, 3, 4 and 7, and four for each in the boxes'."""
    model = small_model(norm="frozen_batch")
    line = start(model, "torchvision/fasterrcnn_resnet50_fpn", CATEGORIES, "backbone.norm=frozen_batch")
    assert line.endswith("0 dropped, 0 kept as they were, from torchvision/fasterrcnn_resnet50_fpn")
    ours, theirs = model.roi_heads.box_predictor, published.roi_heads.box_predictor
    boxes = [0, 1, 2, 3, 4, 5, 6, 7, 12, 13, 14, 15, 16, 17, 18, 19, 28, 29, 30, 31]
    for kind in ("weight", "bias"):
        assert torch.equal(getattr(ours.cls_score, kind), getattr(theirs.cls_score, kind)[[0, 1, 3, 4, 7]])
        assert torch.equal(getattr(ours.bbox_pred, kind), getattr(theirs.bbox_pred, kind)[boxes])
    assert torch.equal(model.backbone.body.conv1.weight, published.backbone.body.conv1.weight)
    assert recorded_norm_eps(model) == 0.0


def test_a_public_name_for_other_categories(published: nn.Module) -> None:
    model = small_model(3)
    fresh = copy(model)
    line = start(model, "torchvision/fasterrcnn_resnet50_fpn", ((1, "circle"), (2, "cell")))
    assert line.endswith(
        f"; re-initialised for 2 classes (the weights have other categories): {LAYERS}; "
        "trained with backbone.norm=frozen_batch, the model has batch"
    )
    for key, value in published.state_dict().items():
        expected = fresh[key] if key.startswith(class_layers(model)) else value
        assert torch.equal(model.state_dict()[key], expected), key
    # Statistics of a batch may have a variance of 0.
    assert recorded_norm_eps(model) == 1e-5


def test_a_public_name_of_another_model(published: nn.Module) -> None:
    model = vertebra.create_model("faster_rcnn", backbone="resnet18", num_classes=5)
    with pytest.raises(vertebra.InputError, match="weights of the head faster_rcnn on the backbone resnet50"):
        start(model, "torchvision/fasterrcnn_resnet50_fpn")


def test_from_the_command_line(cli: Command, workplace: Path, arguments: list[object]) -> None:
    """A run on other categories starts another: all but the class layers, in one line, and the norms' eps for good."""
    quick = ("--set", "schedule.epochs=0.25", "--set", "optim.lr=0", "--set", "engine.pictures=0")
    assert cli(*arguments, *quick, "--output", "runs/first").status == 0
    first = torch.load("runs/first/checkpoint.pt", weights_only=True)
    assert first["norm_eps"] == 1e-5
    first.update(categories=[[9, "cell"], *first["categories"][1:]], norm_eps=0.0)
    torch.save(first, "runs/first/checkpoint.pt")

    frozen = ("--weights", "runs/first", "--set", "backbone.norm=frozen_batch", "--set", "engine.seed=1")
    done = cli(*arguments, *quick, *frozen, "--output", "runs/second")
    assert done.status == 0, done.err
    (line,) = [line for line in done.out.splitlines() if line.startswith("weights: ")]
    assert line.endswith(f"; re-initialised for 4 classes (the weights have other categories): {LAYERS}")
    second = torch.load("runs/second/checkpoint.pt", weights_only=True)
    assert second["norm_eps"] == 0.0
    for key, value in second["model"].items():
        assert torch.equal(value, first["model"][key]) is not key.startswith("roi_heads.box_predictor."), key

    run = open_run(Path("runs/second"))
    model, _ = trained_model(run)
    assert {m.eps for m in model.modules() if "BatchNorm" in type(m).__name__} == {0.0}
    # By hand: the same model, told about its eps.
    expected = vertebra.create_model(run.config.head, backbone="tinynet", norm="frozen_batch", num_classes=5).eval()
    expected.load_state_dict(second["model"])
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        different = expected.backbone(x)
        for module in expected.modules():
            if "BatchNorm" in type(module).__name__:
                module.eps = 0.0
        found, wanted = model.backbone(x), expected.backbone(x)
    assert all(torch.equal(found[level], wanted[level]) for level in wanted)
    assert not any(torch.equal(found[level], different[level]) for level in wanted)
