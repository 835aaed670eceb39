"""One checkpoint: tensors and plain types only, and whole or not there at all."""

from __future__ import annotations

import functools
import os
import platform
import subprocess
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor

from ... import __version__
from ...backbones import InputError
from ...backbones.tensor_files import read_state

KEYS = ("model", "preprocessing", "optimiser", "step", "categories", "config")

# What checkpoints of older versions lack, and what stands for it then. position: how many images of the training stream
# were seen. ema: the moving average as a state dict of the model, or None.
LATER: Mapping[str, Any] = {"norm_eps": None, "position": None, "skipped": 0, "ema": None, "scaler": {}}

OLDER = "checkpoints"  # the folder beside the newest checkpoint, where those before it stay


def save_checkpoint(path: Path, content: Mapping[str, Any]) -> None:
    """Write `content` (the keys above) with versions and git state; the old file stays until the new one is whole."""
    with scratch_beside(path) as scratch:
        write_checkpoint(scratch, content)
        os.replace(scratch, path)
    sync_folder(path.parent)


def write_checkpoint(path: Path, content: Mapping[str, Any]) -> None:
    """Write `content` with versions and git state, down to the disk.

    A value that is neither tensor nor plain is an InputError.
    """
    assert set(KEYS) <= set(content) <= {*KEYS, *LATER}
    _check_plain(content, "checkpoint")
    with open(path, "wb") as file:
        torch.save({**content, "versions": versions(), "git": git_state()}, file)
        file.flush()
        os.fsync(file.fileno())


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint of a run, its checksums first; of an older version it has what stands for what that lacked.

    One that is absent or damaged, or another file, is an InputError, which names an older checkpoint if there is one.
    """
    try:
        return read_whole(path)
    except InputError as error:
        older = older_checkpoints(path.parent)
        if not older:
            raise
        raise InputError(
            f"{error}. An older one is at {older[0]}: --auto-resume continues from it, --checkpoint takes it for "
            "evaluation and prediction"
        ) from error


def read_whole(path: Path) -> dict[str, Any]:
    """Read a checkpoint as `read_checkpoint` does, without a look at what else is there."""
    if not path.is_file():
        raise InputError(f"no checkpoint at {path}; has the run been trained?")
    cause = damage(path)
    if cause is not None:
        raise InputError(f"{path} is no whole checkpoint: {cause}")
    content = read_state(path)
    missing = [key for key in KEYS if not isinstance(content, dict) or key not in content]
    if missing:
        raise InputError(f"{path} is not the checkpoint of a run: it has no {', '.join(missing)}")
    return {**LATER, **content}


def older_checkpoints(folder: Path) -> list[Path]:
    """Return the older checkpoints and milestones of a run's folder, newest first."""
    return sorted((folder / OLDER).glob("*_*.pt"), key=lambda path: path.stem.rpartition("_")[2], reverse=True)


def whole_step(path: Path) -> int | None:
    """Return the step of a checkpoint, without its tensors; None where it is absent or not whole."""
    if not path.is_file() or damage(path) is not None:
        return None
    try:
        return int(torch.load(path, map_location="cpu", weights_only=True, mmap=True)["step"])
    except Exception:  # a whole archive, but of something else
        return None


def damage(path: Path) -> str | None:
    """Say what is wrong with a file that should be as torch.save left it; None where nothing is.

    torch.load does not look at the checksums, so a byte that turned on the disk would go unseen into the weights.
    """
    if path.stat().st_size == 0:
        return "it is empty"
    try:
        with zipfile.ZipFile(path) as archive:
            faulty = archive.testzip()
            # torch.save writes none; of a part that is marked as a folder torch.load takes the memory as it finds it.
            marked = [part.filename for part in archive.infolist() if part.external_attr]
    except zipfile.BadZipFile:
        return "it is cut short, or something else"
    except Exception as error:  # a damaged table of contents makes zipfile raise a dozen types
        return str(error) or type(error).__name__
    if marked:
        return f"{marked[0]} in it has attributes, which it was written without"
    return None if faulty is None else f"{faulty} in it does not match its checksum"


@contextmanager
def scratch_beside(path: Path) -> Iterator[Path]:
    """Yield a hidden name beside `path` to write to; what has not been renamed in the end goes."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield scratch
    finally:
        scratch.unlink(missing_ok=True)


def sweep(folder: Path) -> None:
    """Remove the hidden files of saves that were killed."""
    for scratch in folder.glob(".*.pt.[0-9]*"):
        scratch.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Have the names in a folder written to the disk: a rename alone may be lost with the power."""
    with suppress(OSError):  # some network file systems know no such thing
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def versions() -> dict[str, str]:
    return {
        "vertebra": __version__,
        "torch": str(torch.__version__),
        "torchvision": str(torchvision.__version__),
        "python": platform.python_version(),
    }


@functools.cache  # the state of the code that runs is that of its start
def git_state() -> str | None:
    """Return the commit of the working directory, with `-dirty` where it was changed; None outside a repository."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def _check_plain(value: Any, where: str) -> None:
    """Refuse what `weights_only=True` would refuse to read; better now than when the run shall go on."""
    if isinstance(value, Mapping):
        for key, part in value.items():
            _check_plain(part, f"{where}[{key!r}]")
    elif isinstance(value, (list, tuple)):
        for i, part in enumerate(value):
            _check_plain(part, f"{where}[{i}]")
    elif not isinstance(value, Tensor) and type(value) not in (str, int, float, bool, type(None)):
        # By type, not isinstance: a float64 of NumPy is a float, and torch.load refuses it.
        raise InputError(
            f"{where} is a {type(value).__module__}.{type(value).__qualname__}; a checkpoint holds tensors and plain "
            "types only (str, int, float, bool, None, and lists and dicts of them)"
        )
