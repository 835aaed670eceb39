"""A stage: what one of several ranks skips all of them skip, and what is kept where activations are recomputed."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from vertebra.backbones.stage import BatchDrop, Stage

STEPS, BLOCKS = 6, 8


class Adds(nn.Module):
    """A block that adds a power of two, so that the sum tells which blocks ran."""

    def __init__(self, power: int) -> None:
        super().__init__()
        self.drop_path = BatchDrop(0.5)
        self.weight = nn.Parameter(torch.tensor(float(2**power)))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.weight

    def skip(self, x: Tensor) -> Tensor:
        return x


def run_rank(rank: int, folder: Path) -> None:
    torch.distributed.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=2)
    torch.manual_seed(rank)  # ranks have draws of their own, as in a real run
    stage = DistributedDataParallel(Stage([Adds(i) for i in range(BLOCKS)]), find_unused_parameters=True)
    taken = []
    for _ in range(STEPS):
        out = stage(torch.zeros(1))
        taken.append(int(out.item()))
        if out.requires_grad:
            out.sum().backward()
    gradients = [None if w.grad is None else w.grad.item() for w in stage.parameters()]
    torch.save((taken, gradients), folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


def test_ranks_skip_the_same_blocks(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(run_rank, (tmp_path,), nprocs=2)
    (first, gradients), (second, others) = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    assert first == second
    assert len(set(first)) > 1
    assert gradients == others
    # A block's gradient is 1 for each step that it ran in.
    assert [g or 0 for g in gradients] == [sum(total >> i & 1 for total in first) for i in range(BLOCKS)]


class Cube(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * x * x


@pytest.mark.parametrize(("blocks", "kept"), [(1, 1), (3, 1), (6, 1), (9, 2), (23, 3), (36, 3)])
def test_what_recomputing_keeps(blocks: int, kept: int) -> None:
    """One input for as many blocks as twice the root of their number, rounded up: of ResNet-50's stages, the first."""
    stage = Stage([Cube() for _ in range(blocks)])
    stage.recomputes = True
    saved: list[Tensor] = []
    x = torch.full((1,), 0.999, dtype=torch.float64, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        out = stage(x)
    assert len(saved) == kept
    out.backward()
    assert x.grad is not None
    assert x.grad.item() == pytest.approx(3**blocks * 0.999 ** (3**blocks - 1))
