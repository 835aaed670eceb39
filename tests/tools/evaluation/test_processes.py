"""Evaluators on several processes: each sees a part of the data, and all have the metrics of the whole."""

from pathlib import Path

import torch
from torch import Tensor

from vertebra.tools.evaluation.classification import ClassificationEvaluator
from vertebra.tools.evaluation.semantic import SemanticEvaluator

NAMES = list("abcdefg")
# The parts differ in size, as those of a data set do that the number of processes does not divide.
ALL, PARTS = slice(0, 5), (slice(0, 3), slice(3, 5))


def scores_of(part: slice) -> list[object]:
    generator = torch.Generator().manual_seed(0)

    def maps() -> Tensor:
        return torch.randint(0, 7, (5, 12, 16), generator=generator).repeat_interleave(4, 2)

    semantic, classification = SemanticEvaluator(NAMES), ClassificationEvaluator(NAMES)
    labels, predictions = maps(), maps()
    semantic.update(labels[part], predictions[part])
    classification.update(labels[:, 0, 0][part], torch.rand(5, 7, generator=generator)[part])
    for evaluator in (semantic, classification):
        evaluator.reduce()
    return [semantic.compute(), classification.compute()]


def run_rank(rank: int, folder: Path) -> None:
    torch.distributed.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=2)
    torch.save(scores_of(PARTS[rank]), folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_processes_equal_one(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(run_rank, (tmp_path,), nprocs=2)
    alone = scores_of(ALL)
    assert all(torch.load(tmp_path / f"{rank}.pt") == alone for rank in (0, 1))
    assert scores_of(PARTS[0]) != alone
