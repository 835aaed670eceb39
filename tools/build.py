"""From settings to objects: the user's own modules, the model, the device."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import traceback
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path

import torch
from torch import nn

from ..backbones import InputError
from ..heads import create_model
from .settings import Config


def recorded_imports(imports: Sequence[str]) -> tuple[str, ...]:
    """Return the imports as a run records them: files by absolute path, modules by name."""
    return tuple(str(Path(name).resolve()) if name.endswith(".py") else name for name in imports)


def import_modules(imports: Sequence[str]) -> None:
    """Import the user's modules and files, once each; what they register is then known by name."""
    for name in imports:
        if name.endswith(".py"):
            _import_file(Path(name).resolve())
            continue
        try:
            importlib.import_module(name)
        except Exception as error:  # the user's own code may raise anything
            raise _import_error(name, error) from error


def _import_file(path: Path) -> None:
    loaded = sys.modules.get(path.stem)
    if loaded is not None:
        if getattr(loaded, "__file__", None) == str(path):
            return
        raise InputError(f"cannot import {path}: a module named {path.stem!r} is loaded already; rename the file")
    if not path.is_file():
        raise InputError(f"no file to import at {path}; --import takes a .py file or the name of a module")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # the user's own code may raise anything
        del sys.modules[path.stem]
        raise _import_error(str(path), error) from error


def _import_error(name: str, error: Exception) -> InputError:
    if isinstance(error, InputError):
        return error
    last = traceback.extract_tb(error.__traceback__)[-1]
    return InputError(f"importing {name} failed at {last.filename}:{last.lineno}: {type(error).__name__}: {error}")


def build_model(config: Config, categories: int, *, weights: str | None = None) -> nn.Module:
    """Build the model of a run for data of so many categories; `weights` is for its backbone.

    Masks come out as RLE: dense ones of a hundred objects take gigabytes on a large image.
    """
    backbone = config.backbone
    has_masks = any(field.name == "mask_format" for field in fields(config.head))
    return create_model(
        replace(config.head, mask_format="rle") if has_masks else config.head,
        backbone=config.choices.backbone,
        num_classes=categories + config.head.model.first_label,
        in_channels=config.data.channels or 3,
        output_stride=backbone.output_stride,
        norm=backbone.norm,
        frozen_stages=backbone.frozen_stages,
        drop_path=backbone.drop_path,
        checkpointing=backbone.checkpointing,
        weights=weights,
    )


def pick_device(name: str) -> torch.device:
    """Return the device of that name; `auto` is the first of cuda, mps and cpu that is there."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return torch.device(next(kind for kind, available in there.items() if available))
    kind, _, index = name.partition(":")
    count = torch.cuda.device_count() if kind == "cuda" else 1
    if not there.get(kind, False) or (index and not (index.isdigit() and int(index) < count)):
        known = ", ".join(["auto", *(kind for kind, available in there.items() if available)])
        raise InputError(f"engine.device={name!r} is not on this machine; it has {known}")
    return torch.device(name)
