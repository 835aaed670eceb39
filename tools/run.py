"""The folder of a run: its resolved settings, checkpoint, logs, and evaluations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from ..backbones import InputError, load_weights
from ..backbones.weights import RUN_CHECKPOINT
from .build import build_model, import_modules
from .config import Config, read_config
from .data.sets import Category
from .engine.checkpoint import read_checkpoint


@dataclass(frozen=True)
class Run:
    """A run on disk."""

    folder: Path
    config: Config

    @property
    def checkpoint(self) -> Path:
        return self.folder / RUN_CHECKPOINT


def new_folder(config: Config, output: Path | None, name: str | None) -> Path:
    """Return the folder that a new run shall have; one that is given must be free, others are numbered.

    name: that of the run file, if there is one.
    """
    if output is not None:
        if output.exists() and (not output.is_dir() or any(output.iterdir())):
            raise InputError(f"{output} exists already; continue it with --resume {output}, or choose another --output")
        return output
    choices = config.choices
    base = Path("runs") / (name or f"{choices.head}_{choices.backbone}_{Path(choices.data).stem}".replace("/", "-"))
    number = 1
    folder = base
    while folder.exists():
        number += 1
        folder = base.with_name(f"{base.name}-{number}")
    return folder


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


def trained_model(run: Run, checkpoint: Path | None = None) -> tuple[nn.Module, tuple[Category, ...]]:
    """Return a run's model with its trained weights, in eval mode, and its categories."""
    path = checkpoint or run.checkpoint
    if not path.is_file():
        raise InputError(f"no checkpoint at {path}; has the run been trained?")
    content = read_checkpoint(path)
    categories = tuple(Category(int(id), str(name)) for id, name in content["categories"])
    model = build_model(run.config, len(categories))
    try:
        load_weights(model, content)
    except InputError as error:
        raise InputError(f"{path} is the checkpoint of another model than {run.folder}'s: {error}") from error
    return model.eval(), categories
