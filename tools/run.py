"""The folder of a run: its resolved settings, checkpoint, logs, and evaluations."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from ..backbones import InputError, load_weights
from ..backbones.tensor_files import RUN_CHECKPOINT
from .build import build_model, import_modules
from .config import read_config
from .data.sets import Category
from .engine.checkpoint import read_checkpoint
from .engine.keeping import BEST
from .settings import Config


@dataclass(frozen=True)
class Run:
    """A run on disk."""

    folder: Path
    config: Config

    @property
    def checkpoint(self) -> Path:
        return self.folder / RUN_CHECKPOINT

    @property
    def best(self) -> Path:
        return self.folder / BEST


def new_folder(config: Config, output: Path | None, name: str | None) -> Path:
    """Return the folder that a new run shall have; one that is given must be free, others are numbered.

    name: that of the run file, if there is one.
    """
    if output is not None:
        if output.exists() and (not output.is_dir() or any(output.iterdir())):
            raise InputError(f"{output} exists already; continue it with --resume {output}, or choose another --output")
        return output
    number = 1
    folder = base = base_folder(config, name)
    while folder.exists():
        number += 1
        folder = base.with_name(f"{base.name}-{number}")
    return folder


def base_folder(config: Config, name: str | None) -> Path:
    """Return the folder that runs of these settings have but for a number."""
    choices = config.choices
    return Path("runs") / (name or f"{choices.head}_{choices.backbone}_{Path(choices.data).stem}".replace("/", "-"))


def write_config(run: Run) -> None:
    """Make the folder of a run, with its settings, whole even where the run is killed meanwhile."""
    run.folder.mkdir(parents=True, exist_ok=True)
    scratch = run.folder / ".config.yaml"
    scratch.write_text(run.config.to_yaml())
    os.replace(scratch, run.folder / "config.yaml")


def continued(folder: Path, config: Config) -> Run:
    """Return the run in a folder, to go on with settings that must be those that it began with."""
    run = open_run(folder)
    if run.config != config:
        pairs = zip(run.config.to_yaml().splitlines(), config.to_yaml().splitlines(), strict=False)
        first = next((f" (first: {a.strip()!r}, now {b.strip()!r})" for a, b in pairs if a != b), "")
        raise InputError(
            f"{folder} began with other settings{first}; give those again, choose another --output, or change them "
            f"with --resume {folder} --set KEY=VALUE"
        )
    return run


def open_run(folder: Path, overrides: Sequence[str] = (), imports: Sequence[str] = (), data: str | None = None) -> Run:
    """Open a run for resuming, evaluation or prediction; imports what the run recorded, and `imports` with it.

    data: another data set than its own.
    """
    path = folder / "config.yaml"
    if not path.is_file():
        raise InputError(f"{folder} is not the folder of a run: it has no config.yaml")
    config = read_config(path, overrides, data)
    import_modules([*config.choices.imports, *imports])
    return Run(folder, config)


def chosen_checkpoint(run: Run, checkpoint: Path | None, best: bool) -> Path:
    """Return the checkpoint that is meant: the one given, the best, or the newest."""
    if checkpoint is not None and best:
        raise InputError(f"checkpoint={checkpoint} and best name two checkpoints; choose one of them")
    if best and not run.best.is_file():
        raise InputError(f"no {run.best}: it is written when an evaluation in training gives the best metric so far")
    return checkpoint or (run.best if best else run.checkpoint)


def trained_model(
    run: Run, checkpoint: Path | None = None, raw: bool = False
) -> tuple[nn.Module, tuple[Category, ...]]:
    """Return a run's model with its trained weights, in eval mode, and its categories.

    The weights are the moving average where the run has one (`optim.ema`); with `raw` those of the last step.
    """
    path = checkpoint or run.checkpoint
    content = read_checkpoint(path)
    categories = tuple(Category(int(id), str(name)) for id, name in content["categories"])
    model = build_model(run.config, len(categories))
    try:
        load_weights(model, {**content, "ema": None} if raw else content)
    except InputError as error:
        raise InputError(f"{path} is the checkpoint of another model than {run.folder}'s: {error}") from error
    return model.eval(), categories
