"""`vertebra backbones`: the recorded figures are the real ones, and what it prints."""

import json
from pathlib import Path

import pytest
import torchvision

import vertebra
from vertebra.tools.catalogue import markdown
from vertebra.tools.counting import measure
from vertebra.tools.facts import BEGIN, END, facts, recorded
from vertebra.tools.verify import verify

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", vertebra.list_backbones())
def test_recorded_figures_are_the_real_ones(name: str) -> None:
    """Run `make readme` when a table has changed on purpose."""
    assert measure(name) == recorded()[name]


def test_the_readmes_table_is_the_registrys() -> None:
    text = (ROOT / "README.md").read_text()
    assert text[text.index(BEGIN) + len(BEGIN) : text.index(END)] == markdown(
        [facts(name) for name in vertebra.list_backbones()]
    )


@pytest.mark.parametrize(("name", "billions"), [("vgg19", 19.6), ("resnet34_a", 3.6), ("plain34", 3.6)])
def test_multiply_adds_of_the_papers(name: str, billions: float) -> None:
    """arXiv:1512.03385, figure 3."""
    assert round(facts(name).multiply_adds / 1e9, 1) == billions


@pytest.mark.parametrize("name", [n for n in vertebra.list_backbones() if n in torchvision.models.list_models()])
def test_multiply_adds_equal_torchvisions(name: str) -> None:
    meta = torchvision.models.get_model_weights(name).DEFAULT.meta
    assert facts(name).multiply_adds / 1e9 == pytest.approx(meta["_ops"], abs=2e-3)


@pytest.mark.parametrize(
    "name",
    ["resnet18", "resnet50c", "resnet18d", "resnet50d", "resnetv2_18", "resnetv2_50", "resnext50_32x4d",
     "wide_resnet50_2", "densenet121", "vgg16", "vgg19_bn"],
)  # fmt: skip
def test_verified_against_the_libraries(name: str) -> None:
    verdict = verify(name)
    assert verdict.counts
    assert verdict.faults == ()


@pytest.mark.slow
@pytest.mark.parametrize("name", vertebra.list_backbones())
def test_every_name_is_verified(name: str) -> None:
    assert verify(name).faults == ()


def test_list_prints_sorts_and_filters(cli) -> None:  # type: ignore[no-untyped-def]
    rows = json.loads(cli("backbones", "list", "resnet?8", "--json").out)
    assert [row["name"] for row in rows] == ["resnet18"]
    assert rows[0]["with_classifier"] == 11_689_512
    names = [r["name"] for r in json.loads(cli("backbones", "list", "--sort", "parameters", "--json").out)]
    assert (names[0], names[-1]) == ("plain20", "vgg19_bn")
    assert "resnet110" not in cli("backbones", "list", "resnet1*", "--pretrained").out
    assert "25,557,032" in cli("backbones", "list", "resnet50", "--markdown").out


def test_list_fits_eighty_columns(cli, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setenv("COLUMNS", "80")
    lines = cli("backbones", "list").out.splitlines()
    assert [line.split()[0] for line in lines[1 : 1 + len(vertebra.list_backbones())]] == vertebra.list_backbones()
    (resnet50,) = [line for line in lines if line.startswith("resnet50 ")]
    assert " ".join(resnet50.split()) == "resnet50 25.56 M 4.09 G @224 256 512 1024 2048 4–32 81.2"


def test_show_goes_stage_by_stage(cli) -> None:  # type: ignore[no-untyped-def]
    found = json.loads(cli("backbones", "show", "resnet50", "--json").out)
    assert [s["blocks"] for s in found["stages"] if s["name"].startswith("layer")] == [3, 4, 6, 3]
    assert sum(s["parameters"] for s in found["stages"]) == found["parameters"]
    assert {"torchvision_v1", "torchvision_v2"} <= {record["tag"] for record in found["records"]}
    out = cli("backbones", "show", "plain20", "--gradients", "--steps", "1").out
    assert "no public weights" in out
    assert "layer3.2" in out


def test_verify_says_ok(cli) -> None:  # type: ignore[no-untyped-def]
    out = cli("backbones", "verify", "resnet20").out
    assert "269,722" in out
    assert "ok" in out
