"""Two processes: what they tell each other, how they learn as one with the whole batch, and that they end together."""

import os
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vertebra.backbones import InputError
from vertebra.heads import create_model, head_row
from vertebra.heads.normalisers import averaged_over
from vertebra.tools.engine import processes as module
from vertebra.tools.engine.processes import ALONE, Processes, joined

CPU = torch.device("cpu")


def environment(rank: int, port: int) -> dict[str, str]:
    """What torchrun says to its processes."""
    given = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return {name: str(value) for name, value in given.items()}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_alone() -> None:
    with joined("cpu") as processes:
        assert processes is ALONE
    values = torch.tensor([3, 4])
    assert all(method(values) is values for method in (ALONE.sum, ALONE.mean, ALONE.largest))
    assert ALONE.gather("this") == ["this"]
    assert ALONE.part(5) == range(5)
    model = nn.Linear(1, 1)
    assert ALONE.parallel(model, CPU) is model
    assert ALONE.device(torch.device("cuda:3")) == torch.device("cuda:3")


@pytest.mark.parametrize("count", [1, 2, 3, 7])
@pytest.mark.parametrize("total", [0, 1, 2, 10])
def test_parts_are_all_and_even(total: int, count: int) -> None:
    parts = [Processes(rank, rank, count).part(total) for rank in range(count)]
    assert [i for part in parts for i in part] == list(range(total))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_what_cannot_be_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="no LOCAL_RANK, MASTER_ADDR, MASTER_PORT; start the processes with torchrun"):
        joined("cpu").__enter__()
    for name, value in environment(0, 1).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match="'cuda:1', but 2 processes were started"):
        joined("cuda:1").__enter__()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(InputError, match="number 1 of its machine, which has 0 GPUs"):
        joined("cuda").__enter__()


def test_a_process_that_is_never_started(monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    for name, value in environment(0, port).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(module, "START", module.timedelta(seconds=1))
    with pytest.raises(InputError, match=rf"2 processes did not find each other at 127.0.0.1:{port} \(.+\); see"):
        joined("cpu").__enter__()


# --- learning ------------------------------------------------------------------------------------------------------

# The sizes of a small model of each head; norms that take statistics of a batch would be another model in two halves.
MODELS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "mask_rcnn": (
        "resnet18",
        {"norm": "group"},
        {
            "train_size": None, "fpn_channels": 8, "box_head_channels": 16, "mask_convs": 1, "mask_channels": 8,
            "rpn_batch_size_per_image": 32, "rpn_post_nms_top_n_train": 40, "box_batch_size_per_image": 32,
        },
    ),
    "deeplabv3plus": (
        "resnet18",
        {"norm": "frozen_batch"},
        {
            "train_size": None, "aspp_channels": 8, "decoder_channels": 8, "head_norm": "group",
            "losses": ("cross_entropy", "dice", "ohem"),
        },
    ),
    "classifier": ("resnet20", {"norm": "group"}, {"train_size": None, "label_smoothing": 0.1}),
}  # fmt: skip


def model_of(head: str) -> Any:
    backbone, options, changes = MODELS[head]
    torch.manual_seed(0)
    model = create_model(replace(head_row(head), **changes), backbone=backbone, num_classes=4, **options)
    for part in model.modules():
        if hasattr(part, "loaded"):  # a frozen norm wants statistics from a checkpoint
            part.loaded = True
        if isinstance(part, nn.Dropout):  # what is dropped is not a function of the image
            part.p = 0.0
    return model.double().train()


def samples() -> list[tuple[Tensor, dict[str, Tensor]]]:
    """Four images: those of the first half have few objects and labelled pixels, those of the last half many."""
    random = torch.Generator().manual_seed(1)
    found = []
    for seed, count in enumerate((0, 1, 5, 4)):
        corners = torch.randint(0, 30, (count, 2), generator=random).double()
        boxes = torch.cat([corners, corners + torch.randint(12, 34, (count, 2), generator=random)], dim=1)
        masks = torch.zeros(count, 64, 64, dtype=torch.uint8)
        for mask, (x1, y1, x2, y2) in zip(masks, boxes.int().tolist(), strict=True):
            mask[y1:y2, x1 : (x1 + x2) // 2] = 1
        semantic = torch.randint(0, 4, (64, 64), generator=random)
        semantic[: 60 if seed == 0 else 4 * seed] = 255
        target = {
            "boxes": boxes,
            "labels": torch.randint(1, 4, (count,), generator=random),
            "masks": masks,
            "semantic": semantic,
            "label": torch.tensor(seed),
            "seed": torch.tensor(100 + seed),
        }
        found.append((torch.rand(3, 64, 64, generator=random, dtype=torch.float64), target))
    return found


def learnt(head: str, processes: Processes) -> dict[str, Any]:
    """Take two steps with four images, shared by the processes; return losses and weights."""
    model = model_of(head)
    parallel = processes.parallel(model, CPU)
    optimiser = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 1e-3, momentum=0.9)
    share = processes.part(4)
    batch = samples()[share.start : share.stop]
    history = []
    for _ in range(2):
        with averaged_over(processes.mean):
            losses = parallel([image for image, _ in batch], [target for _, target in batch])
        optimiser.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        optimiser.step()
        history.append({name: processes.mean(value.detach()) for name, value in losses.items()})
    return {"losses": history, "weights": model.state_dict()}


def exchanged(processes: Processes) -> list[Any]:
    values = torch.tensor([processes.rank + 1, -processes.rank])
    kept = values.clone()
    model = nn.BatchNorm2d(1)
    model.running_mean += processes.rank + 5
    processes.share_buffers(model)
    found = [
        processes.sum(values).tolist(),
        processes.mean(values).tolist(),
        processes.largest(values).tolist(),
        processes.gather({"rank": processes.rank}),
        model.running_mean.item(),
    ]
    assert torch.equal(values, kept)
    return found


def run_rank(rank: int, folder: Path, port: int, head: str) -> None:
    os.environ |= environment(rank, port)
    torch.set_num_threads(1)
    with joined("cpu") as processes:
        torch.save([exchanged(processes), learnt(head, processes)], folder / f"{rank}.pt")


SLOW = pytest.mark.slow


@pytest.mark.parametrize("head", ["mask_rcnn", *(pytest.param(h, marks=SLOW) for h in ("deeplabv3plus", "classifier"))])
def test_two_processes(head: str, tmp_path: Path) -> None:
    """Losses and weights equal those of one process with all of the images."""
    torch.multiprocessing.spawn(run_rank, (tmp_path, free_port(), head), nprocs=2)
    (first, learnt_by_first), (second, learnt_by_second) = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    assert first == [[3, -1], [1.5, -0.5], [2, 0], [{"rank": 0}, {"rank": 1}], 5]
    assert second == [[3, -1], [1.5, -0.5], [2, 0], None, 5]
    alone = learnt(head, ALONE)
    assert alone["losses"][0] != alone["losses"][1]
    for found in (learnt_by_first, learnt_by_second):
        torch.testing.assert_close(found, alone, rtol=1e-7, atol=1e-9)


# --- how they end --------------------------------------------------------------------------------------------------

SCRIPT = """
import os, signal, sys, time
import torch
from vertebra.backbones import InputError
from vertebra.tools.engine.processes import joined

class Stop(Exception):
    pass

def act(processes, what):
    if what == "leave":          # at different times
        time.sleep(2 * processes.rank)
    elif what == "stop":         # all are asked to
        time.sleep(1.5 * processes.main)
        raise Stop
    elif what == "refuse":       # all find the same fault
        raise InputError("a fault in the settings")
    elif processes.main:
        processes.sum(torch.ones(1))
    elif what == "raise":
        raise ValueError("a fault\\nof one")
    elif what == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif what == "freeze":
        os.kill(os.getpid(), signal.SIGSTOP)

signal.signal(signal.SIGTERM, signal.SIG_IGN)  # as in training, where it is noted for the end of the step
try:
    with joined("cpu", (Stop,)) as processes:
        processes.wait()
        act(processes, sys.argv[1])
except InputError as error:
    sys.exit(f"error: {error}")
except Stop:
    sys.exit(7)
"""


def ends(tmp_path: Path, what: str) -> list[tuple[int, str]]:
    """Run the script in two processes; return the exit status of each, and what it said."""
    (tmp_path / "script.py").write_text(SCRIPT)
    port = free_port()
    started = [
        subprocess.Popen(
            [sys.executable, "script.py", what],
            env={**os.environ, **environment(rank, port), "OMP_NUM_THREADS": "1"},
            cwd=tmp_path,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    try:
        if what == "kill":
            started[1].wait(60)
            started[0].wait(30)  # at most so long after the other
        first = started[0].communicate(timeout=90)[1]
        if what == "freeze":
            started[1].kill()
        return [(started[0].returncode, first), (started[1].wait(60), started[1].communicate()[1])]
    finally:
        for process in started:
            process.kill()


def line(cause: str) -> str:
    return f"error: process 1 of 2 (host {socket.gethostname()}) ended: {cause}"


def test_one_that_is_killed_ends_the_other(tmp_path: Path) -> None:
    (status, said), (killed, _) = ends(tmp_path, "kill")
    assert (status, killed) == (1, -signal.SIGKILL)
    assert line("it is gone without a word") in said
    assert "Traceback" not in said


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "statuses", "texts"),
    [
        ("leave", (0, 0), ("", "")),
        ("stop", (7, 7), ("", "")),
        ("raise", (1, 1), (line("ValueError: a fault of one"), "ValueError: a fault\n")),
        ("freeze", (1, -signal.SIGKILL), (line("it gave no sign of life for 20 s"), "")),
    ],
)
def test_other_ends(tmp_path: Path, what: str, statuses: tuple[int, int], texts: tuple[str, str]) -> None:
    found = ends(tmp_path, what)
    assert tuple(status for status, _ in found) == statuses
    for (_, said), text in zip(found, texts, strict=True):
        assert text in said if text else not said


@pytest.mark.slow
def test_a_fault_of_all_is_said_once(tmp_path: Path) -> None:
    found = ends(tmp_path, "refuse")
    assert [status for status, _ in found] == [1, 1]
    assert "".join(said for _, said in found) == "error: a fault in the settings\n"


@pytest.mark.slow
def test_torchrun_names_the_one_that_failed_first(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "script.py", "raise"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1
    assert line("ValueError: a fault of one") in done.stderr
    assert "ValueError: a fault\n" in done.stderr  # its own traceback
    root = done.stderr[done.stderr.index("Root Cause") :]
    assert "rank      : 1" in root
