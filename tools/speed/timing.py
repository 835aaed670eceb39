"""The contest: every contestant does a step in turn, again and again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ..peers import Found, peer_of
from .case import Case, given, make_images
from .contestants import Entry, contestant, entries, reference_of
from .hardware import seconds_of
from .parts import decode_seconds, parts_of
from .steps import STEPS, Contestant


@dataclass(frozen=True)
class Timing:
    """Seconds of each run of a step by a contestant, and what is said of it.

    found: what the peer's measures say of what was found; nothing of training. parts: seconds by part, if asked for.
    """

    name: str
    dtype: str
    seconds: tuple[float, ...]
    found: Mapping[str, float] = field(default_factory=dict)
    parts: Mapping[str, float] | None = None

    @property
    def median(self) -> float:
        return median(self.seconds)


@dataclass(frozen=True)
class Measured:
    """A step: operations of torchvision's model in it (two for a multiply-add), and the timings, in the rows' order."""

    step: str
    operations: int
    timings: tuple[Timing, ...]


def measure(case: Case, *, parts: bool = False) -> Iterator[Measured]:
    """Yield what each step takes, and with `parts` how that is shared out.

    Each runs once unmeasured; then they take turns, so that whatever else the machine does meets all of them.
    """
    images = make_images(case)
    for step in [known for known in STEPS if known in case.steps]:
        reference = reference_of(case, step, images)
        operations = _operations(reference, case, step)
        taking_part = entries(case, step)
        models = [contestant(case, step, entry, reference) for entry in taking_part]
        runs = [STEPS[step](one, *given(case, step)) for one in models]
        found = [run() for run in runs]
        turns = [_turn(models, runs, case.device) for _ in range(case.repeats)]
        said = _said(case, taking_part, found)
        yield Measured(
            step,
            operations,
            tuple(
                Timing(
                    one.name, one.dtype, seconds, measures, _parts(case, step, entry, one, run) if parts else None
                )
                for entry, one, run, seconds, measures in zip(
                    taking_part, models, runs, zip(*turns, strict=True), said, strict=True
                )
            ),
        )  # fmt: skip


def _operations(reference: nn.Module, case: Case, step: str) -> int:
    """Count the operations of convolutions and matrix products in a step of torchvision's, forward and backward."""
    run = STEPS[step](Contestant("", reference), *given(case, step))
    with FlopCounterMode(display=False) as counter:
        run()
    return int(counter.get_total_flops())


def _said(case: Case, taking_part: Sequence[Entry], found: Sequence[Found | None]) -> list[dict[str, float]]:
    """Return what the measures say of each: beside the first that computed in that dtype, as rounding is alike."""
    first: dict[str, Found] = {}
    said: list[dict[str, float]] = []
    for entry, one in zip(taking_part, found, strict=True):
        if one is None:
            said.append({})
            continue
        like = first.setdefault(entry.dtype, one)
        said.append({name: compare(like, one) for name, compare in peer_of(case.head).measures.items()})
    return said


def _turn(models: Sequence[Contestant], runs: Sequence[Callable[[], object]], device: torch.device) -> list[float]:
    """Return the seconds of one run of each; after the C library was told otherwise the first run does not count."""
    seconds, told = [], None
    for one, run in zip(models, runs, strict=True):
        if one.memory is not told:
            told = one.memory
            if told() and device.type == "cpu":
                run()
        seconds.append(seconds_of(run, device))
    return seconds


def _parts(case: Case, step: str, entry: Entry, one: Contestant, run: Callable[[], object]) -> dict[str, float] | None:
    """Return the mean seconds of each part, the image files read before them."""
    if entry.row.kind is None:
        return None
    one.memory()
    run()
    found = parts_of(entry.row.kind, one.model, step, run, case.device, case.repeats)
    return {"decode": decode_seconds(entry.row.kind, case.size, case.batch_size, case.repeats), **found}
