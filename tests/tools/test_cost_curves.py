"""Lines through costs, by hand; the points of an axis; and the command."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from vertebra.backbones import InputError
from vertebra.tools.cost_curves import AXES, as_markdown, chosen_axes, costs, in_words, swept
from vertebra.tools.cost_fits import Curve, fit
from vertebra.tools.model_costs import Work

BASE = Work("faster_rcnn", "resnet50")
# 1 + 2 x seconds, and 0.25 + 0.5 x GB.
CURVE = Curve(
    "batch",
    "train",
    "images",
    ("1", "2", "4"),
    (1, 2, 4),
    (3.0, 5.0, 9.0),
    (750_000_000, 1_250_000_000, 2_250_000_000),
    base=0,
)


@pytest.mark.parametrize(
    ("ys", "start", "slope", "r2"),
    [
        ((3, 5, 7), 1, 2, 1),
        ((0, 3, 0), 1, 0, 0),  # nothing of it is explained
        # Slope 3 / 2, mean 7 / 3: of a variance of 14 / 3 a sixth is left.
        ((1, 2, 4), -2 / 3, 3 / 2, 1 - (1 / 6) / (14 / 3)),
        ((2, 2, 2), 2, 0, 1),
    ],
)
def test_fit(ys: tuple[float, ...], start: float, slope: float, r2: float) -> None:
    line = fit((1, 2, 3), ys)
    assert (line.start, line.slope, line.r2) == pytest.approx((start, slope, r2), abs=1e-9)


def test_a_curve_in_words_and_on_a_page() -> None:
    assert CURVE.doubled == pytest.approx(5 / 3)
    assert in_words(CURVE) == (
        "train over batch: 1.000 s + 2 s x images (R² 1.000); twice the images of 1 take 1.67 times as long"
    )
    (row,) = as_markdown([CURVE]).splitlines()[2:]
    assert row == "| images: 1, 2, 4 | train | 3.00, 5.00, 9.00 | 1.000 + 2 x | 1.000 | 1.67 | 0.25 + 0.5 x |"
    assert as_markdown([replace(CURVE, memory=(None,) * 3)]).splitlines()[2].endswith("| – |")


def test_points_vary_in_one_field_and_the_base_is_among_them() -> None:
    found = swept(BASE, list(AXES), ["batch=4,2", "size=64x96,320x416,32x32"])
    assert [work.batch_size for work in found["batch"]] == [1, 2, 4]
    assert [work.size for work in found["size"]] == [(32, 32), (64, 96), (320, 416)]
    assert [work.backbone for work in found["depth"]] == ["resnet18", "resnet34", "resnet50", "resnet101", "resnet152"]
    for name, works in found.items():
        assert BASE in works
        assert {replace(work, **{AXES[name].field: getattr(BASE, AXES[name].field)}) for work in works} == {BASE}


def test_heads_without_objects_have_no_such_axis() -> None:
    segmenter = replace(BASE, head="deeplabv3")
    assert chosen_axes(segmenter, None) == ["size", "batch", "classes", "depth"]
    with pytest.raises(InputError, match="--axes objects: deeplabv3 finds no objects"):
        chosen_axes(segmenter, "size,objects")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"axes": "sizes"}, "unknown axis 'sizes'. Did you mean 'size'"),
        ({"what": "training"}, "unknown step 'training'"),
        ({"size": "320"}, "'320' is no size; it is HxW, such as 480x640"),
        ({"sweep": ["batch"]}, "--sweep batch: it is AXIS=VALUE"),
        ({"sweep": ["batch=1,x"]}, "'x' is no number from 1 on"),
        ({"sweep": ["batch=1,2"]}, "batch has the values 1, 2; a line through them needs three"),
        ({"sweep": ["depth=resnet18,resnet5O"]}, "unknown backbone 'resnet5O'"),
        ({"axes": "size", "sweep": ["batch=1,2,3"]}, "with an axis of size"),
    ],
)
def test_bad_options_are_named(arguments: dict[str, str], message: str) -> None:
    with pytest.raises(InputError) as error:
        costs(device="cpu", **arguments)
    assert message in str(error.value)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.md"
    page.write_text("<!-- costs: x -->\n<!-- end of costs -->\n")
    costs(
        head="classifier", backbone="resnet18", size="64x64", classes=5, what="inference", axes="batch",
        sweep=["batch=1,2,4"], repeats=1, threads=1, device="cpu",
        output=tmp_path / "a.json", plot=tmp_path / "a.png", page=page,
    )  # fmt: skip
    figures = json.loads((tmp_path / "a.json").read_text())
    assert (figures["backbone"], figures["size"], figures["threads"]) == ("resnet18", [64, 64], 1)
    assert [row["batch_size"] for row in figures["rows"]] == [1, 2, 4]
    (curve,) = figures["curves"]
    assert curve["xs"] == [1, 2, 4]
    assert curve["seconds"] == [row["median"] for row in figures["rows"]]
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert "| images: 1, 2, 4 | inference |" in page.read_text()
    assert "inference over batch: " in capsys.readouterr().out
