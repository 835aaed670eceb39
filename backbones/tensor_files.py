"""Files of tensors, read without running code that they bring."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from .errors import InputError

WEIGHT_SUFFIXES = (".pt", ".pth", ".safetensors")
RUN_CHECKPOINT = "checkpoint.pt"


class _Unread:
    """Stands for an object of a class that is not read: a trainer's history or arguments beside the weights, say."""

    def __new__(cls, *_: object) -> _Unread:
        return super().__new__(cls)

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


def read_state(path: str | os.PathLike[str]) -> Any:
    """Read tensors and plain types from a file (.pt, .pth, .safetensors) or a run folder; other objects are inert."""
    return read_known(path)[0]


def read_known(path: str | os.PathLike[str]) -> tuple[Any, tuple[str, ...]]:
    """Return what a file holds, and the names of the classes and functions in it in whose place inert objects stand."""
    path = Path(path)
    if path.is_dir():
        path = path / RUN_CHECKPOINT
    if not path.is_file():
        raise InputError(f"no weights at {path}; give a file (.pt, .pth, .safetensors) or a run folder")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path), ()
        return torch.load(path, map_location="cpu", weights_only=True), ()
    except Exception as error:  # torch and safetensors raise a dozen types for a damaged file
        try:
            unknown = tuple(get_unsafe_globals_in_checkpoint(path))
            with safe_globals([(_Unread, name) for name in unknown]):
                return torch.load(path, map_location="cpu", weights_only=True), unknown
        except Exception:  # the first refusal says more: a stand-in cannot do what the object did
            reason = (str(error).splitlines() or [type(error).__name__])[0].split(". ")[0]
            raise InputError(
                f"{path} cannot be read as weights (tensors and plain types only): {reason[:200]}"
            ) from error
