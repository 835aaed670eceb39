"""What many GPUs do on paper, by hand; and the steps of two processes, measured."""

import json
from pathlib import Path

import pytest

from vertebra.backbones import InputError
from vertebra.tools.model_costs import Work
from vertebra.tools.paper_scaling import Cluster, exchange_seconds, gradient_bytes, largest_of, reckon
from vertebra.tools.process_costs import Step, measure, ring_bytes
from vertebra.tools.process_scaling import measured_table, processes

# A step of 1 s, of which half is the backward pass; links of 100 and 10 bytes/s; messages of 0.01 s; buckets of 20.
BY_HAND = Cluster(
    gpu_batch=4, gpu_rate=4.0, per_node=2, inside=200.0, between=20.0, reached=0.5, hop=0.01, bucket=20.0,
    backward=0.5, spread=0.0, image_bytes=1000.0, sample_seconds=0.5,
)  # fmt: skip


@pytest.mark.parametrize(("count", "sent"), [(1, 0), (2, 100), (4, 150), (100, 198)])
def test_bytes_round_a_ring(count: int, sent: float) -> None:
    assert ring_bytes(count, 100) == pytest.approx(sent)


def test_exchange_by_hand() -> None:
    """Of 50 bytes in 3 buckets.

    In a machine of two: 50 sent at 100 bytes/s, and 2 messages for each bucket. In four machines of two: 87.5 sent at
    10 bytes/s, and 2 + 2 * 2 messages for each bucket.
    """
    assert exchange_seconds(1, 50, BY_HAND) == 0
    assert exchange_seconds(2, 50, BY_HAND) == pytest.approx(0.5 + 0.06)
    assert exchange_seconds(8, 50, BY_HAND) == pytest.approx(8.75 + 0.18)


def test_a_step_by_hand() -> None:
    """Of two, 0.56 s are exchanged, 0.5 s of it while the backward pass runs; the last bucket takes 0.2 + 0.02 s."""
    two = reckon(2, 50, BY_HAND)
    assert (two.images, two.compute, two.sent, two.exposed, two.waiting) == pytest.approx((8, 1, 50, 0.22, 0))
    assert two.images_per_second == pytest.approx(8 / 1.22)
    assert two.efficiency == pytest.approx(1 / 1.22)
    assert (two.data, two.cores) == pytest.approx((8000 / 1.22, 4 / 1.22))
    # Of eight, far more than the backward pass hides.
    assert reckon(8, 50, BY_HAND).exposed == pytest.approx(8.93 - 0.5)
    assert reckon(1, 50, BY_HAND).efficiency == 1


@pytest.mark.parametrize(("count", "mean"), [(1, 0), (2, 0.56419), (8, 1.42360), (10, 1.53875), (100, 2.50759)])
def test_the_slowest_of_many(count: int, mean: float) -> None:
    """Tables of normal order statistics (Harter 1961)."""
    assert largest_of(count) == pytest.approx(mean, abs=0.03)


def test_gradients_of_mask_rcnn() -> None:
    """Torchvision's model card has 44,401,393 parameters; frozen are the stem and the convolutions of layer1."""
    blocks = 64 * 64 + 9 * 64 * 64 + 64 * 256 + 64 * 256, 2 * (256 * 64 + 9 * 64 * 64 + 64 * 256)
    count = 44_401_393 - 3 * 64 * 49 - sum(blocks)
    assert gradient_bytes("mask_rcnn", "resnet50", classes=91, frozen_stages=2) == (count, 4 * count)


def test_the_table_of_what_was_measured() -> None:
    one = Step(1, (1.0, 0.8, 1.2), (1.0, 0.8, 1.2), (), 10**9)
    two = Step(2, (1.25, 1.25, 1.25), (1.1, 1.1, 1.1), (0.5, 0.5, 0.5), 10**9)
    first, second = measured_table([one, two], batch_size=2).splitlines()[2:]
    assert first == "| 1 | 1.000 | 1.000 | 2.00 | 100% | 0 | – | – |"
    assert second == "| 2 | 1.250 | 1.100 | 3.20 | 80% | 1000 | 0.500 | 2.00 |"


def test_on_paper(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page, file = tmp_path / "page.md", tmp_path / "a.json"
    page.write_text("<!-- on paper: x -->\n<!-- end of on paper -->\n")
    processes(on_paper=True, counts="8,64", gpu_batch="2", page=page, output=file)
    said = capsys.readouterr().out
    assert "44,178,993 parameters train" in said
    assert "- a GPU alone trains 120 images/s" in page.read_text()
    assert [row["gpus"] for row in json.loads(file.read_text())["rows"]] == [8, 64]
    assert [line.split(" | ")[1] for line in page.read_text().splitlines() if line.startswith(("| 8", "| 64"))] == [
        "16",
        "128",
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"counts": "1,two"}, "'two' is no number from 1 on"),
        ({"backbone": "resnet5O"}, "unknown backbone 'resnet5O'"),
        ({"precision": "half"}, "half"),
        ({"size": "5"}, "'5' is no size"),
    ],
)
def test_bad_options_are_named(arguments: dict[str, str], message: str) -> None:
    with pytest.raises(InputError) as error:
        processes(device="cpu", **arguments)
    assert message in str(error.value)


@pytest.mark.slow
def test_two_processes() -> None:
    work = Work("faster_rcnn", "resnet18", size=(64, 64), classes=5)
    one, two = (measure(work, count, "cpu", "float32", 1, 2) for count in (1, 2))
    assert one.gradient_bytes == two.gradient_bytes == gradient_bytes("faster_rcnn", "resnet18", 5, 0)[1] + 4 * 2 * 4800
    assert (len(one.seconds), len(one.exchange)) == (2, 0)
    assert len(two.seconds) == len(two.alone) == len(two.exchange) == 2
    assert min(*two.seconds, *two.alone, *two.exchange) > 0
