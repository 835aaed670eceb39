"""Checkpoints: tensors and plain types only, and whole or not there at all."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torchvision

from ... import __version__
from ...backbones import InputError
from ...backbones.weights import read_state

KEYS = ("model", "preprocessing", "optimiser", "step", "categories", "config")
OPTIONAL_KEYS = ("norm_eps",)  # runs of older versions have none


def save_checkpoint(path: Path, content: Mapping[str, Any]) -> None:
    """Write `content` (the keys above) with versions and git state; the old file stays until the new one is whole."""
    assert set(KEYS) <= set(content) <= {*KEYS, *OPTIONAL_KEYS}
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(scratch, "wb") as file:
            torch.save({**content, "versions": versions(), "git": git_state()}, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint of a run; another file is an InputError."""
    content = read_state(path)
    missing = [key for key in KEYS if not isinstance(content, dict) or key not in content]
    if missing:
        raise InputError(f"{path} is not the checkpoint of a run: it has no {', '.join(missing)}")
    return dict(content)


def versions() -> dict[str, str]:
    return {
        "vertebra": __version__,
        "torch": str(torch.__version__),
        "torchvision": str(torchvision.__version__),
        "python": platform.python_version(),
    }


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
