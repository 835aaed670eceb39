"""The registry: names, rows, other people's backbones, and the errors of each."""

import hashlib
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import vertebra
from vertebra.backbones import registry


@pytest.fixture(autouse=True)
def _clean_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_REGISTRY", dict(registry._REGISTRY))


class Two(vertebra.Backbone):
    """Two convolutions with stride 2, a feature after each."""

    def __init__(self) -> None:
        super().__init__([vertebra.FeatureInfo("c1", 4, 2), vertebra.FeatureInfo("c2", 8, 4)])
        self.one = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.two = nn.Conv2d(4, 8, 3, stride=2, padding=1)

    def forward_features(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        c1 = self.one(images)
        return {"c1": c1, "c2": self.two(c1)}


class TwoStaged(Two):
    def stages(self) -> tuple[tuple[nn.Module, ...], ...]:
        return (self.one,), (self.two,)


def test_names_are_found_by_pattern_in_natural_order() -> None:
    assert vertebra.list_backbones("densenet1??") == ["densenet121", "densenet161", "densenet169"]
    assert vertebra.list_backbones("nothing*") == []


def test_unknown_name_suggests_the_nearest() -> None:
    message = r"unknown backbone 'resnet5O'. Did you mean 'resnet50'\? See list_backbones"
    with pytest.raises(vertebra.InputError, match=message):
        vertebra.create_backbone("resnet5O")


def test_a_changed_row_builds() -> None:
    network = vertebra.create_backbone(replace(vertebra.row("resnet18"), depths=(1, 1), widths=(8, 16)))
    assert network.feature_info == (vertebra.FeatureInfo("c2", 8, 4), vertebra.FeatureInfo("c3", 16, 8))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"output_stride": 4}, "output_stride=4; it can be 8, 16, 32"),
        ({"in_channels": 0}, "in_channels=0"),
        ({"drop_path": 1.0}, "drop_path=1.0"),
        ({"out_features": ("c6",)}, "unknown feature of Trunk 'c6'"),
    ],
)
def test_options_out_of_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(vertebra.InputError, match=message):
        vertebra.create_backbone("resnet18", **options)


def test_own_backbone_gets_taps_and_freezing() -> None:
    vertebra.register_backbone("two")(TwoStaged)
    assert "two" in vertebra.list_backbones()
    network = vertebra.create_backbone("two", out_features=("c2",), frozen_stages=1)
    assert {k: v.shape for k, v in network(torch.randn(1, 3, 9, 9)).items()} == {"c2": (1, 8, 3, 3)}
    assert not network.one.weight.requires_grad
    assert network.two.weight.requires_grad


def test_a_clash_names_both_owners() -> None:
    with pytest.raises(
        vertebra.InputError,
        match=r"'resnet50' is registered already, by vertebra\.backbones\.residual\.Residual; .*Two",
    ):
        vertebra.register_backbone("resnet50")(Two)


def test_an_option_that_the_builder_does_not_take_is_named() -> None:
    vertebra.register_backbone("two")(Two)
    with pytest.raises(vertebra.InputError, match="'two' does not take norm='group'"):
        vertebra.create_backbone("two", norm="group")


def test_freezing_needs_stages() -> None:
    vertebra.register_backbone("two")(Two)
    with pytest.raises(vertebra.InputError, match=r"Two cannot be frozen by stage: define stages\(\)"):
        vertebra.create_backbone("two", frozen_stages=1)


def test_builders_that_break_the_contract() -> None:
    class Overrides(Two):
        def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
            return self.forward_features(images)

    with pytest.raises(vertebra.InputError, match="defines forward; define forward_features instead"):
        vertebra.create_backbone(Overrides)
    with pytest.raises(vertebra.InputError, match=r"returned Conv2d; it must return a vertebra\.Backbone"):
        vertebra.create_backbone(lambda: nn.Conv2d(3, 3, 1))


PACKAGE = {
    "pyproject.toml": """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"
[project]
name = "tiny-nets"
version = "1.0"
[project.entry-points."vertebra.backbones"]
tiny = "tiny_nets:tiny"
resnet50 = "tiny_nets:tiny"
broken = "tiny_nets:absent"
""",
    "tiny_nets.py": """
import vertebra
from torch import nn

class Tiny(vertebra.Backbone):
    def __init__(self):
        super().__init__([vertebra.FeatureInfo("c1", 4, 1)])
        self.one = nn.Conv2d(3, 4, 1)

    def forward_features(self, images):
        return {"c1": self.one(images)}

@vertebra.register_backbone("tiny")
def tiny():
    return Tiny()
""",
}
USE = """
import vertebra
assert "tiny" in vertebra.list_backbones()
print(vertebra.create_backbone("tiny").feature_info[0].channels)
for name in ("resnet50", "broken"):
    try:
        vertebra.create_backbone(name)
    except vertebra.InputError as error:
        print(error)
print(vertebra.create_backbone("resnet18").feature_info[0].channels)
"""


def test_an_installed_package_offers_backbones(tmp_path: Path) -> None:
    for name, content in PACKAGE.items():
        (tmp_path / name).write_text(content)
    target = tmp_path / "installed"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--target", str(target), str(tmp_path)], check=True, capture_output=True)
    done = subprocess.run(
        [sys.executable, "-c", USE],
        env={**os.environ, "PYTHONPATH": str(target)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    first, clash, broken, still = done.stdout.splitlines()
    assert (first, still) == ("4", "64")
    assert (
        "'resnet50' is registered already, by vertebra.backbones.residual.Residual; tiny-nets (tiny_nets:tiny)" in clash
    )
    assert "'broken' of tiny-nets (tiny_nets:absent) cannot be imported: AttributeError" in broken


def test_tags_of_public_weights() -> None:
    with pytest.raises(vertebra.InputError, match="no public weights for 'resnet110'; train from scratch"):
        vertebra.create_backbone("resnet110", weights="imagenet")
    with pytest.raises(vertebra.InputError, match=r"unknown weights tag of resnet50 'torchvision_v3'.*torchvision_v2"):
        vertebra.create_backbone("resnet50", weights="torchvision_v3")


def test_a_record_brings_preprocessing_and_eps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From torch.hub's cache, where the file is already: nothing is downloaded."""
    state = vertebra.create_backbone("resnet18").state_dict()
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    torch.save(state, tmp_path / "file.pth")
    digest = hashlib.sha256((tmp_path / "file.pth").read_bytes()).hexdigest()
    (tmp_path / "file.pth").rename(tmp_path / "checkpoints" / f"mine-{digest}.pth")
    record = vertebra.WeightsRecord(
        tag="mine_in1k",
        url=f"http://127.0.0.1:9/mine-{digest}.pth",
        source="me",
        preprocessing=vertebra.Preprocessing((0.5,) * 3, (0.5,) * 3),
        sha256=digest,
        eps=1e-3,
    )
    vertebra.register_backbone("mine", weights=[record])(replace(vertebra.row("resnet18")))
    for tag in ("imagenet", "mine_in1k"):
        network = vertebra.create_backbone("mine", weights=tag, in_channels=1)
        assert network.preprocessing == vertebra.Preprocessing((0.5,), (0.5,))
        assert network.bn1.eps == 1e-3
        assert torch.equal(network.layer4[0].conv1.weight, state["layer4.0.conv1.weight"])


def test_a_network_that_mixes_up_its_levels_is_told() -> None:
    """feature_info holds the chosen features alone: to read the names of all from it pairs them with wrong maps."""

    class MixedUp(Two):
        def forward_features(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
            maps = super().forward_features(images).values()
            return {info.name: x for info, x in zip(self.feature_info, maps, strict=False)}

    network = MixedUp()
    assert [x.shape[1] for x in network(torch.zeros(1, 3, 8, 8)).values()] == [4, 8]
    network.select_(["c2"])
    with pytest.raises(vertebra.InputError, match="MixedUp gives c2 4 channels, and 8 were declared"):
        network(torch.zeros(1, 3, 8, 8))
