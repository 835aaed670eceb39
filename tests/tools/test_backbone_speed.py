"""Every family is measured; what is measured is kept; what cannot stand under the head says why."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vertebra.backbones import InputError, list_backbones
from vertebra.tools import timing
from vertebra.tools.backbone_speed import DEFAULT, as_markdown, backbones, cells, fitting_size, measure
from vertebra.tools.model_costs import Cost, Work

COST = Cost("inference", (0.5, 0.25, 1.0), 300_000_000, 79_000_000_000, 8.0, 41_000_000)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """What was measured, by no process: every step costs the same, and resnet34 does not fit."""
    calls: list[tuple[str, str]] = []

    def fake(function: Callable[..., Cost], work: Work, step: str, *rest: Any) -> Cost:
        calls.append((work.backbone, step))
        if work.backbone == "resnet34":
            raise InputError("it does not fit")
        return COST

    monkeypatch.setattr(timing, "in_fresh_process", fake)
    return calls


def family(name: str) -> str:
    return re.split(r"[\d_]*\d", name)[0]


def test_every_family_is_measured_by_default() -> None:
    assert {family(name) for name in list_backbones()} == {family(name) for name in DEFAULT if "/" not in name}
    assert set(DEFAULT) <= {*list_backbones(), *list_backbones("timm/*")}
    assert sum(name.startswith("timm/") for name in DEFAULT) >= 4


@pytest.mark.parametrize(
    ("name", "expected"),
    [("resnet50", (320, 416)), ("vgg16_bn", (320, 416)), ("resnet20", (80, 104)), ("timm/efficientnet_b0", None)],
)
def test_images_are_such_that_maps_are_as_large(name: str, expected: tuple[int, int] | None) -> None:
    import torch

    from vertebra.backbones import create_backbone

    found = fitting_size((320, 416), name)
    if expected:
        assert found == expected
    with torch.device("meta"):
        maps = create_backbone(name)(torch.empty(1, 3, *found))
    assert next(iter(maps.values())).shape[-2:] == (80, 104)


def test_what_the_file_has_is_not_measured_again(tmp_path: Path, measured: list[tuple[str, str]]) -> None:
    file, page = tmp_path / "a.json", tmp_path / "page.md"
    page.write_text("<!-- backbones: x -->\n<!-- end of backbones -->\n")
    backbones(["resnet18", "resnet34"], device="cpu", output=file, page=page)
    assert measured == [("resnet18", "inference"), ("resnet18", "train"), ("resnet34", "inference")]
    assert "| resnet18 | 2.00 | 300 | 2.00 | 300 | 41.0 M | 79.0 |" in page.read_text()
    assert "- `resnet34`: it does not fit" in page.read_text()
    measured.clear()
    backbones(["resnet?8", "resnet34", "resnet20"], device="cpu", output=file)
    # What had failed is tried again.
    assert measured == [("resnet34", "inference"), ("resnet20", "inference"), ("resnet20", "train")]
    assert [row["name"] for row in json.loads(file.read_text())["rows"]] == ["resnet18", "resnet34", "resnet20"]
    with pytest.raises(InputError, match=r"a\.json has figures of other batch_size; give another file, or --again"):
        backbones(["resnet18"], device="cpu", batch_size=2, output=file)
    measured.clear()
    backbones(["resnet18"], device="cpu", batch_size=2, output=file, again=True)
    assert measured == [("resnet18", "inference"), ("resnet18", "train")]


def test_a_wrong_name_is_named(measured: list[tuple[str, str]]) -> None:
    with pytest.raises(InputError, match="unknown backbone 'resnet5O'"):
        backbones(["resnet18", "resnet5O"], device="cpu")
    assert not measured


def test_tables_by_size() -> None:
    step = {"median": 0.25, "memory": None, "parameters": 1_500_000, "flop": 2_000_000_000}
    small = {"name": "a", "size": [80, 104], "batch_size": 2, "inference": step, "train": step}
    assert cells(small) == ("a", "8.00", "–", "8.00", "–", "1.5 M", "2.0")
    text = as_markdown([small, {**small, "name": "b", "size": [320, 416]}, {"name": "c", "reason": "too deep"}])
    assert [line for line in text.splitlines() if line.startswith("On ")] == ["On 80x104:", "On 320x416:"]
    assert text.endswith("Not under this head:\n\n- `c`: too deep\n")


def test_a_network_without_a_pyramid_is_a_row_with_the_reason() -> None:
    """All maps of a plain vision transformer are of one stride."""
    row = measure(Work("faster_rcnn", "resnet50", (64, 64)), "timm/vit_tiny_patch16_224", "cpu", 1, 1)
    assert row["name"] == "timm/vit_tiny_patch16_224"
    assert "strides" in row["reason"]
    assert "\n" not in row["reason"]
