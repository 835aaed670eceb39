"""What is said, and kept, when training goes wrong: steps that cannot be taken, memory that is too small, and hints."""

from __future__ import annotations

import logging
import os
import resource
import sys
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from math import isfinite
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn

from ...backbones import InputError
from .arrival import Batch
from .checkpoint import scratch_beside
from .loop import StepReport

log = logging.getLogger("vertebra")

# The folder of a run with the batches that could not be learnt from.
FOLDER = "trouble"


class Skips:
    """Counts the steps of a run that were skipped for values that are not finite, and saves their batches.

    limit: with more than so many, the run ends in an InputError. skipped: how many there were before. process: the
    number of this one, of several; each saves its share of a batch.
    """

    def __init__(self, folder: Path, limit: int, skipped: int = 0, process: int | None = None) -> None:
        self.folder = folder / FOLDER
        self.limit = limit
        self.skipped = skipped
        self.process = process
        self.steps: list[int] = []
        self.ids: list[int] = []

    def skip(self, step: int, losses: Mapping[str, float], batch: Batch, model: nn.Module) -> None:
        """Save the batch of a step, counted from 1, with the model as it was before it.

        The file is `trouble/step_N.pt`, which `vertebra replay` reads: tensors and plain types only.
        """
        ids = [int(target["image_id"]) for _, target in batch]
        self.skipped += 1
        self.steps.append(step)
        self.ids += ids
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"step_{step:08d}{'' if self.process is None else f'_process{self.process}'}.pt"
        content = {
            "step": step,
            "process": self.process or 0,
            "losses": dict(losses),
            "image_ids": ids,
            "images": [image.cpu() for image, _ in batch],
            "targets": [{key: _plain(value) for key, value in target.items()} for _, target in batch],
            "model": {name: value.cpu() for name, value in model.state_dict().items()},
        }
        log.warning("step %d is skipped: %s; image ids %s; %s", step, _odd(losses), _listed(ids), _saved(path, content))
        if self.skipped > self.limit:
            raise self._story(step)

    def _story(self, step: int) -> InputError:
        return InputError(
            f"{self.skipped} of {step} steps were skipped for losses or gradients that are not finite, which is more "
            f"than engine.skip_limit={self.limit}: steps {_listed(self.steps)}; image ids {_listed(self.ids)}. "
            f"`vertebra replay {self.folder}/FILE` shows where a saved batch goes wrong; lower optim.lr, set "
            "optim.clip_norm, lengthen schedule.warmup_steps, or take engine.precision=float32"
        )


def _odd(losses: Mapping[str, float]) -> str:
    odd = [f"{name} is {value}" for name, value in losses.items() if not isfinite(value)]
    return ", ".join(odd) or "its gradient is not finite"


def _listed(numbers: list[int]) -> str:
    """Return numbers in a line: the last ones, where they are many."""
    return f"{'… ' if len(numbers) > 20 else ''}{', '.join(map(str, numbers[-20:]))}"


def _plain(value: Any) -> Any:
    """Return a target's value as tensors and plain types: of anything but a tensor, its fields by name."""
    if isinstance(value, Tensor):
        return value.cpu()
    if is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    return value


def _saved(path: Path, content: Mapping[str, Any]) -> str:
    """Save a batch and return what is to be said of it; that it cannot be saved is no reason to end a run."""
    try:
        with scratch_beside(path) as scratch:
            torch.save(dict(content), scratch)
            os.replace(scratch, path)
    except (OSError, RuntimeError) as error:
        return f"it could not be saved for replay: {error}"
    return f"saved as {path}"


class Hints:
    """Says what the steps of a run let suspect, each thing once. The rules know no loss by its name."""

    NOTHING = 200  # so many steps in a row without a loss
    FLAT = 500  # the first steps, over which a loss falls where anything is learnt
    PART = 100  # so many of these, at either end, are compared
    FALL = 0.02  # the least share by which it falls
    WAITING = 100  # so many steps
    SHARE = 0.5  # of their time

    def __init__(self, say: Callable[[str], object]) -> None:
        self.say = say
        self.said: set[str] = set()
        self.zeros: Counter[str] = Counter()
        self.losses: list[float] = []
        self.norms: list[float] = []
        self.waits: deque[float] = deque(maxlen=self.WAITING)

    def see(self, report: StepReport) -> None:
        """Look at a step; hints come once there have been enough steps of their kind."""
        for name, value in report.losses.items():
            self.zeros[name] = 0 if value else self.zeros[name] + 1
            if self.zeros[name] == self.NOTHING:
                self._hint(
                    f"zero {name}",
                    f"{name} has been 0 for {self.NOTHING} steps: there was nothing to learn it from. Do the images "
                    "have what it is learnt from, and of a size that the model looks for? `vertebra data browse` shows "
                    "what it gets",
                )
        self._flat(report)
        self.waits.append(report.waiting)
        if len(self.waits) == self.WAITING and fmean(self.waits) > self.SHARE:
            self._hint(
                "waiting",
                f"{fmean(self.waits):.0%} of the time of the last {self.WAITING} steps went by waiting for images: set "
                f"engine.workers higher (this machine has {os.cpu_count()} cores), or resize the images on disk; "
                "`vertebra benchmark data` shows what takes long",
            )

    def _flat(self, report: StepReport) -> None:
        if report.step != len(self.losses) + 1 or report.step > self.FLAT:
            return  # of a run that is continued the first steps were elsewhere
        self.losses.append(report.loss)
        self.norms.append(report.gradient_norm)
        if report.step < self.FLAT:
            return
        first, last = fmean(self.losses[: self.PART]), fmean(self.losses[-self.PART :])
        if last > (1 - self.FALL) * first:
            self._hint(
                "flat",
                f"the loss has not fallen in {self.FLAT} steps: {first:.4g} on average over the first {self.PART}, "
                f"{last:.4g} over the last, with a gradient norm of {fmean(self.norms):.3g} and a learning rate of "
                f"{report.learning_rate:.3g} by now. Try optim.lr ten times higher and lower, pretrained weights "
                "(--weights imagenet), and look at what is learnt from: `vertebra data browse`",
            )

    def _hint(self, kind: str, text: str) -> None:
        if kind not in self.said:
            self.said.add(kind)
            self.say(f"hint: {text}")


def out_of_memory(
    error: BaseException,
    *,
    images: int,
    accumulation: int,
    precision: str,
    checkpointing: bool,
    device: torch.device,
) -> InputError | None:
    """Return what to say of memory that was too small; None where the error is another one.

    images: those of a step in one process, of which it works on a part at a time, `accumulation` parts in all.
    """
    if not isinstance(error, (torch.OutOfMemoryError, MemoryError)) and "can't allocate memory" not in str(error):
        return None
    now = images // accumulation
    parts = next((n for n in range(accumulation + 1, images + 1) if images % n == 0), None)
    advice = [
        f"optim.accumulation={parts} ({images // parts} at once instead of {now}, for the same result)"
        if parts
        else "",
        "" if checkpointing else "backbone.checkpointing=true (slower)",
        "engine.precision=bfloat16" if device.type == "cuda" and precision in ("float32", "tf32") else "",
        "smaller images (transforms.short and longest, or crop)",
    ]
    return InputError(
        f"out of memory on {device} with {now} image{'s' * (now != 1)} at once in {precision}: {_used(device)}. "
        f"Set {'; or '.join(filter(None, advice))}"
    )


def _used(device: torch.device) -> str:
    """Return how much memory a device has, and how much of it was used."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        peak, held = torch.cuda.max_memory_allocated(device), torch.cuda.memory_reserved(device)
        others = max(0, total - free - held)
        return (
            f"it has {total / 1e9:.1f} GB, of which this process used up to {peak / 1e9:.1f} GB and others use "
            f"{others / 1e9:.1f} GB"
        )
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    # In kB, but on macOS.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return f"the machine has {total / 1e9:.1f} GB, of which this process used up to {peak / 1e9:.1f} GB"
