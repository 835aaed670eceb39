"""How levels are counted, how another registry mirrors ours, and what is said where a framework is missing."""

import pytest
import torch

import vertebra
from vertebra.backbones import registry
from vertebra.backbones.adapters.shared import at, default_levels, every_level, missing


@pytest.mark.parametrize(
    ("name", "indices", "counted", "names"),
    [
        ("resnet18", (1, 2, 3, 4), every_level, ["c2", "c3", "c4", "c5"]),  # timm's count: 0 is the stem
        ("resnet18", (0, -1), default_levels("resnet18"), ["c2", "c5"]),  # mmdetection's: 0 is the first stage
        ("vgg16", (0, 3), default_levels("vgg16"), ["c3", "c6"]),
        ("highway19", (0, 2), default_levels("highway19"), ["c2", "c4"]),
    ],
)
def test_levels_by_index(name: str, indices: tuple[int, ...], counted: object, names: list[str]) -> None:
    with torch.device("meta"):
        network = vertebra.create_backbone(name, out_features=at(indices, "out_indices", counted))
    assert [info.name for info in network.feature_info] == names


@pytest.mark.parametrize("indices", [(0, 3), (-4,), ()])
def test_levels_that_a_backbone_has_not(indices: tuple[int, ...]) -> None:
    with pytest.raises(
        vertebra.InputError, match=r"out_indices=.*of this backbone are 0 \(32@1\), 1 \(80@2\), 2 \(128@4"
    ):
        vertebra.create_backbone("highway19", out_features=at(indices, "out_indices"))


def test_every_name_is_mirrored_now_and_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_REGISTRY", dict(registry._REGISTRY))
    monkeypatch.setattr(registry, "_WATCHERS", [])
    names: list[str] = []
    registry.each_backbone(names.append)
    assert names == vertebra.list_backbones()
    vertebra.register_backbone("later")(vertebra.row("resnet18"))
    assert names[-1] == "later"


def test_a_missing_framework_is_told_from_a_broken_one() -> None:
    absent = missing(ModuleNotFoundError("no", name="detectron2"), "detectron2", "install it")
    assert str(absent) == "this adapter needs detectron2, which is not installed: install it"
    broken = ModuleNotFoundError("no module named fvcore", name="fvcore")
    assert missing(broken, "detectron2", "install it") is broken
