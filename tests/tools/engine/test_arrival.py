"""Batches on their way: all of them, in order, with what they hold; and on a GPU one ahead."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from vertebra.heads.boxed_masks import BoxedMasks
from vertebra.tools.engine import arrival
from vertebra.tools.engine.arrival import Batch, arriving


def batches(count: int, said: list[str]) -> Iterator[Batch]:
    for i in range(count):
        said.append(f"fetch {i}")
        masks = BoxedMasks.from_dense(torch.eye(4)[None])
        yield [(torch.full((3, 4, 4), i, dtype=torch.uint8), {"image_id": torch.tensor(i), "masks": masks})]


def test_on_a_cpu_batches_pass() -> None:
    said: list[str] = []
    given = list(batches(3, said))
    found = list(arriving(given, torch.device("cpu")))
    assert [int(target["image_id"]) for ((_, target),) in found] == [0, 1, 2]
    for ((image, target),), ((image_given, target_given),) in zip(found, given, strict=True):
        assert image is image_given
        assert target["image_id"] is target_given["image_id"]
        assert torch.equal(target["masks"].dense(), torch.eye(4, dtype=torch.uint8)[None])


def test_on_a_cpu_a_batch_is_fetched_when_it_is_asked_for() -> None:
    said: list[str] = []
    for _ in arriving(batches(2, said), torch.device("cpu")):
        said.append("step")
    assert said == ["fetch 0", "step", "fetch 1", "step"]


@pytest.fixture
def streams(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is said to CUDA's streams, which are made of nothing here."""
    said: list[str] = []

    class Stream:
        def __init__(self, name: str) -> None:
            self.name = name

        def wait_stream(self, other: Any) -> None:
            said.append(f"{self.name} waits for {other.name}")

        def wait_event(self, event: str) -> None:
            said.append(f"{self.name} waits for {event}")

        def record_event(self) -> str:
            return f"copy {moved[-1]}"

    @contextmanager
    def current(stream: Any) -> Iterator[None]:
        said.append(f"on {stream.name}")
        yield

    moved: list[int] = []

    def to_device(batch: Batch, device: torch.device) -> Batch:
        moved.append(int(batch[0][1]["image_id"]))
        said.append(f"copy {moved[-1]}")
        return batch

    monkeypatch.setattr(torch.cuda, "Stream", lambda device: Stream("side"))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream("main"))
    monkeypatch.setattr(torch.cuda, "stream", current)
    monkeypatch.setattr(arrival, "_moved", to_device)
    return said


def test_on_a_gpu_the_next_is_copied_before_one_is_handed_out(streams: list[str]) -> None:
    for _ in arriving(batches(3, streams), torch.device("cuda")):
        streams.append("step")
    expected = [
        *("fetch 0", "side waits for main", "on side", "copy 0"),
        *("fetch 1", "side waits for main", "on side", "copy 1", "main waits for copy 0", "step"),
        *("fetch 2", "side waits for main", "on side", "copy 2", "main waits for copy 1", "step"),
        *("main waits for copy 2", "step"),
    ]
    assert streams == expected


def test_on_a_gpu_no_batch_at_all(streams: list[str]) -> None:
    assert list(arriving([], torch.device("cuda"))) == []


@pytest.mark.gpu
def test_copies_do_not_run_into_each_other() -> None:
    """Large batches and long steps on each: what a step sees is what was sent, though memory is used again."""
    device = torch.device("cuda")
    sent = [[(torch.full((3, 1000, 1000), i).pin_memory(), {"image_id": torch.tensor(i)})] for i in range(20)]
    weights = torch.rand(4000, 4000, device=device)
    sums = []
    for ((image, target),) in arriving(sent, device):
        for _ in range(10):
            weights = torch.softmax(weights @ weights, dim=0)
        sums.append((image.sum(), target["image_id"]))
    assert [(int(total), int(i)) for total, i in sums] == [(i * 3 * 1000 * 1000, i) for i in range(20)]
