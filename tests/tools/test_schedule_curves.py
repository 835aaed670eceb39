"""Every schedule's learning rate at its corners, by hand; the command; and the picture in the docs."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vertebra.tools.config import list_schedules
from vertebra.tools.schedule_curves import COCO, describe, read_row

DOCS = Path(__file__).parents[2] / "docs"

# On a data set of 1,000 steps an epoch: (step, rate) at the start, at half of the warm-up, at its end, just before and
# after each milestone, in the middle, and at the last step. Half of a warm-up from f is (1 + f) / 2; the middle of a
# cosine is a half; half of the way to the power 0.9 is 0.535886731.
CORNERS: dict[str, dict[int, float]] = {
    "smoke": {0: 0.0002, 25: 0.0101 * 0.99990362, 50: 0.02 * 0.99961448, 2000: 0.01, 3999: 3.0842512e-9},
    "1x": {
        0: 0.00002, 500: 0.01001, 1000: 0.02, 6000: 0.02, 7999: 0.02, 8000: 0.002, 10999: 0.002, 11000: 0.0002,
        11999: 0.0002,
    },
    "2x": {
        0: 0.00002, 500: 0.01001, 1000: 0.02, 12000: 0.02, 15999: 0.02, 16000: 0.002, 21999: 0.002, 22000: 0.0002,
        23999: 0.0002,
    },
    "3x": {
        0: 0.00002, 500: 0.01001, 1000: 0.02, 18500: 0.02, 28999: 0.02, 29000: 0.002, 33999: 0.002, 34000: 0.0002,
        36999: 0.0002,
    },
    "lsj_100ep": {
        0: 0.0067, 250: 0.05335, 500: 0.1, 50000: 0.1, 88888: 0.1, 88889: 0.01, 96295: 0.01, 96296: 0.001,
        99999: 0.001,
    },
    "lsj_400ep": {
        0: 0.0067, 1000: 0.05335, 2000: 0.1, 200000: 0.1, 355555: 0.1, 355556: 0.01, 385184: 0.01, 385185: 0.001,
        399999: 0.001,
    },
    # A hundredth of the rate, and the part above it times 0.5 ** 0.9; at the end times (1 / steps) ** 0.9.
    "seg_20k": {0: 0.01, 10000: 0.0001 + 0.0099 * 0.535886731, 19999: 0.0001 + 0.0099 * 1.34609e-4},
    "seg_40k": {0: 0.01, 20000: 0.0001 + 0.0099 * 0.535886731, 39999: 0.0001 + 0.0099 * 7.21350e-5},
    "seg_80k": {0: 0.01, 40000: 0.0001 + 0.0099 * 0.535886731, 79999: 0.0001 + 0.0099 * 3.86572e-5},
    "seg_30ep": {0: 0.02, 15000: 0.02 * 0.535886731, 29999: 0.02 * 9.34525e-5},
    "imagenet_90ep": {0: 0.1, 29999: 0.1, 30000: 0.01, 45000: 0.01, 59999: 0.01, 60000: 0.001, 89999: 0.001},
    "imagenet_100ep": {0: 0.1, 25000: 0.0853553391, 50000: 0.05, 75000: 0.0146446609, 99999: 2.467401e-11},
    "cifar_200ep": {
        0: 0.1, 59999: 0.1, 60000: 0.02, 100000: 0.02, 119999: 0.02, 120000: 0.004, 159999: 0.004, 160000: 0.0008,
        199999: 0.0008,
    },
    "cifar_300ep": {0: 0.1, 149999: 0.1, 150000: 0.01, 224999: 0.01, 225000: 0.001, 299999: 0.001},
    "cifar_64k": {0: 0.1, 31999: 0.1, 32000: 0.01, 47999: 0.01, 48000: 0.001, 63999: 0.001},
}  # fmt: skip


def test_every_schedule_is_in_the_table() -> None:
    assert CORNERS.keys() == set(list_schedules())


@pytest.mark.parametrize("name", CORNERS)
def test_corners(name: str) -> None:
    from vertebra.tools.engine.schedules import learning_rate

    row = read_row(name, images=1000 * read_row(name, images=COCO).config.optim.batch_size)
    rate = learning_rate(row.config.schedule, row.config.optim, row.steps_per_epoch)
    assert row.steps == max(CORNERS[name]) + 1
    assert {step: rate(step) for step in CORNERS[name]} == pytest.approx(CORNERS[name], rel=1e-5, abs=1e-15)
    # The corners that the picture has are those of the table, but for the half of the warm-up and of a cosine.
    assert {step for step, _ in row.corners} <= {*CORNERS[name], row.steps // 2}
    assert all(value == pytest.approx(rate(step)) for step, value in row.corners)


def test_command(cli: Callable[..., Any], tmp_path: Path) -> None:
    given = "--set", "optim.batch_size=4", "--images", 4000, "--output", tmp_path / "a.png"
    done = cli("schedules", "1x", "seg_20k", *given)
    assert done.status == 0, done.err
    lines = [re.sub(r"\s+", " ", line).strip() for line in done.out.splitlines()]
    assert "1x 12 epochs 12,000 4 0.005 1,000 steps from 0.001 times 0.1 at 8, 11" in lines
    assert "seg_20k 80,000 steps 80,000 4 0.0025 none poly to the power 0.9 to 2.5e-05" in lines
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_command_with_an_own_file_and_a_wrong_name(cli: Callable[..., Any], tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("schedule: {epochs: 3, warmup_steps: 0, decay: cosine}\n")
    assert "mine      3 epochs" in cli("schedules", path).out
    done = cli("schedules", "4x")
    assert (done.status, "unknown schedule '4x'" in done.err) == (2, True)


def test_the_picture_in_the_docs_is_of_the_schedules_as_they_are() -> None:
    """`make readme` draws it again."""
    from PIL import Image

    with Image.open(DOCS / "schedules.png") as picture:
        drawn = picture.info["Description"]
    assert drawn == describe([read_row(name, COCO) for name in list_schedules()])


def test_the_docs_name_every_schedule_and_every_published_run() -> None:
    text = (DOCS / "schedules.md").read_text()
    runs = [path.stem for path in (DOCS.parent / "configs" / "runs").glob("*_*.yaml")]
    assert [name for name in (*list_schedules(), *runs) if f"`{name}`" not in text] == []


def test_the_docs_have_the_figures_of_the_run_files() -> None:
    figure = r"(?:box AP|mask AP|mean IoU|pixel accuracy) \d+\.\d"
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", (DOCS / "schedules.md").read_text(), flags=re.MULTILINE))
    for path in (DOCS.parent / "configs" / "runs").glob("*_*.yaml"):
        comment = path.read_text().replace("\n# ", " ")
        assert re.findall(figure, rows[path.stem]) == re.findall(figure, comment) != [], path.stem
