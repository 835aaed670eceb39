"""`vertebra backbones`: the recorded figures are the real ones, and what it prints."""

from pathlib import Path

import pytest
import torchvision

import vertebra
from vertebra.tools.catalogue import markdown
from vertebra.tools.facts import facts, measure, recorded
from vertebra.tools.verify import verify

ROOT = Path(__file__).resolve().parents[2]
BEGIN, END = "<!-- models: written by `make readme` -->\n", "<!-- end of models -->\n"


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
