"""Files of weights in the ways of several frameworks, read without running code of theirs, and written whole."""

from __future__ import annotations

import os
import pickle
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from ..tensor_files import read_known

# --- pickles of arrays ---------------------------------------------------------------------------------------------


class _Dtype:
    """What a pickle says of an array's numbers; only plain ones pass."""

    def __init__(self, name: str, *_: object) -> None:
        if not re.fullmatch(r"[fiub]\d+", name):
            raise pickle.UnpicklingError(f"an array of {name!r}: arrays of numbers alone are read")
        self.name, self.order = name, "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = state[1].replace("|", "=")

    def read(self, content: bytes | str) -> np.ndarray[Any, Any]:
        # A pickle of Python 2 hands its bytes over as text.
        raw = content.encode("latin1") if isinstance(content, str) else bytes(content)
        return np.frombuffer(raw, self.order + self.name)


class _Array:
    """Stands for an array while a pickle is read, so that none of its bytes reach numpy's own `__setstate__`."""

    values: np.ndarray[Any, Any]

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        shape, dtype, by_column, content = state[-4:]
        self.values = dtype.read(content).reshape(shape, order="F" if by_column else "C")


def _array(content: bytes, dtype: _Dtype, shape: tuple[int, ...], order: str) -> _Array:
    array = _Array()
    array.values = dtype.read(content).reshape(shape, order="F" if order == "F" else "C")
    return array


def _scalar(dtype: _Dtype, content: bytes) -> Any:
    return dtype.read(content)[0].item()


def _encoded(text: str, encoding: str) -> bytes:
    return text.encode("latin1")


_NUMPY: dict[str, Callable[..., Any]] = {
    "multiarray._reconstruct": _Array,
    "multiarray.scalar": _scalar,
    "numeric._frombuffer": _array,
}
_ALLOWED: dict[str, Callable[..., Any]] = {
    **{f"numpy.{core}.{name}": made for core in ("core", "_core") for name, made in _NUMPY.items()},
    "numpy.ndarray": _Array,
    "numpy.dtype": _Dtype,
    "_codecs.encode": _encoded,
    "collections.OrderedDict": dict,
}


class _Unpickler(pickle.Unpickler):
    """Knows arrays of numbers and plain types; any other name that a pickle calls ends the reading."""

    def find_class(self, module: str, name: str) -> Callable[..., Any]:
        if f"{module}.{name}" not in _ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return _ALLOWED[f"{module}.{name}"]


def _read_pickle(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            return _plain(_Unpickler(file, encoding="latin1").load())
    except Exception as error:  # a damaged pickle raises a dozen types
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            f"{path} cannot be read as weights (arrays of numbers and plain types only): {reason[:200]}"
        ) from error


def _plain(content: Any) -> Any:
    if isinstance(content, Mapping):
        return {key: _plain(value) for key, value in content.items()}
    if isinstance(content, _Array):
        # Native and of its own: what came is read-only, and may have the other order of bytes.
        return torch.from_numpy(content.values.astype(content.values.dtype.newbyteorder("="), copy=True))
    return content


# --- what is in them -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Content:
    """A file that was read: its tensors by key, and the rest of what it says."""

    path: str
    state: Mapping[str, Tensor]
    facts: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def read(path: str | os.PathLike[str]) -> Content:
    """Read a file of weights: `.pkl`, `.pt`, `.pth` or `.safetensors`; never runs code that the file brings."""
    path = Path(path)
    if path.suffix == ".pkl" and path.is_file():
        content, unread = _read_pickle(path), tuple[str, ...]()
    else:
        content, unread = read_known(path)
    if not isinstance(content, Mapping):
        raise InputError(f"{path} holds no state dict: a mapping from names to tensors is expected")
    inner = next((content[key] for key in ("model", "state_dict", "blobs") if _is_state(content.get(key))), content)
    state = {str(key): value for key, value in inner.items() if isinstance(value, Tensor)}
    if not state:
        raise InputError(f"{path} holds no state dict: a mapping from names to tensors is expected")
    notes = [f"not read, for they are no tensors: {', '.join(sorted(unread))}"] if unread else []
    return Content(str(path), state, {} if inner is content else content, tuple(notes))


def _is_state(value: object) -> bool:
    return isinstance(value, Mapping) and any(isinstance(item, Tensor) for item in value.values())


def write(path: Path, content: Mapping[str, Any]) -> None:
    """Write weights in the way that the name's ending says; the file is there whole or not at all."""
    scratch = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _WRITERS[path.suffix](content, scratch)
        os.replace(scratch, path)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error}") from error
    finally:
        scratch.unlink(missing_ok=True)


def _write_pickle(content: Mapping[str, Any], path: Path) -> None:
    arrays = {key: value.numpy() for key, value in content["model"].items()}
    with path.open("wb") as file:
        pickle.dump({**content, "model": arrays}, file)


def _write_torch(content: Mapping[str, Any], path: Path) -> None:
    torch.save(dict(content), path)


def _write_safetensors(content: Mapping[str, Any], path: Path) -> None:
    from safetensors.torch import save_file

    save_file({key: value.contiguous() for key, value in content.items()}, path)


_WRITERS: Mapping[str, Callable[[Mapping[str, Any], Path], None]] = {
    ".pkl": _write_pickle,
    ".pth": _write_torch,
    ".pt": _write_torch,
    ".safetensors": _write_safetensors,
}
