"""Writing exported files: ONNX with operators of its standard domain alone, and torch.export's archives."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from ...backbones import InputError
from ...heads.export_suppression import Suppression, as_one_operator, by_torchvision
from .description import KEY, Description

# Lower than any score, but finite: what is not there has -inf.
LOWEST = -3e38

# What onnx calls this type.
BOOL = 9


@dataclass(frozen=True)
class Format:
    """How a model is written: the suffix of the file, how its detectors suppress, and what writes it."""

    suffix: str
    suppress: Suppression
    write: Callable[[ExportedProgram, Description, Path], None]
    needs: tuple[str, ...] = ()


def write_onnx(program: ExportedProgram, description: Description, path: Path) -> None:
    """Write a traced model as ONNX, with its description in the metadata."""
    with quiet():
        written: Any = torch.onnx.export(
            program,
            dynamo=True,
            verbose=False,
            input_names=description.inputs,
            output_names=description.outputs,
            custom_translation_table={torch.ops.vertebra.suppress_groups.default: _suppress_groups},
        )
    written.model.metadata_props[KEY] = description.to_json()
    written.save(path, external_data=False)


def write_archive(program: ExportedProgram, description: Description, path: Path) -> None:
    """Write a traced model for `torch.export.load`, with its description as an extra file."""
    with quiet():
        torch.export.save(program, path, extra_files={f"{KEY}.json": description.to_json()})


def _suppress_groups(boxes: Any, scores: Any, threshold: float) -> Any:
    """Do what `as_one_operator` does, in ONNX: its images are our groups, and it has one class."""
    from onnxscript import opset18

    op: Any = opset18  # its types are of whole functions in ONNX, which this is not
    chosen = op.NonMaxSuppression(
        boxes,
        op.Unsqueeze(scores, op.Constant(value_ints=[1])),
        op.Constant(value_ints=[2**31 - 1]),
        op.Constant(value_floats=[threshold]),
        op.Constant(value_floats=[LOWEST]),
    )  # rows of (group, class, box)
    where = op.Gather(chosen, op.Constant(value_ints=[0, 2]), axis=1)
    count = op.Gather(op.Shape(chosen), op.Constant(value_ints=[0]), axis=0)
    no, yes = (op.Cast(op.Constant(value_int=value), to=BOOL) for value in (0, 1))
    return op.ScatterND(op.Expand(no, op.Shape(scores)), where, op.Expand(yes, count))


@contextmanager
def quiet() -> Iterator[None]:
    """Keep what libraries say of each other, which no user can mend, from the terminal."""
    names = ("torch.onnx", "torch.export", "onnxscript", "onnx_ir", "torch.fx.experimental.symbolic_shapes")
    levels = {name: logging.getLogger(name).level for name in names}
    try:
        for name in names:
            logging.getLogger(name).setLevel(logging.ERROR)
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


FORMATS = {
    "onnx": Format(".onnx", as_one_operator, write_onnx, ("onnx", "onnxscript", "onnxruntime")),
    "torch-export": Format(".pt2", by_torchvision, write_archive),
}


def require(packages: tuple[str, ...], what: str) -> None:
    """Refuse to go on without packages that are not installed, and say how to install them."""
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        raise InputError(f"{what} needs {', '.join(missing)}: pip install 'vertebra[export]'")
