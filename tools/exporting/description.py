"""What an exported file says of itself: all that is needed to prepare images for it and to read its results."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ...backbones import InputError
from ...heads.images import PAD_MULTIPLE
from ..data.sets import Category

# The name of the description in an ONNX file's metadata, and with .json of the file in a .pt2 archive.
KEY = "vertebra"

# Raised when files of before can no longer be read as they were meant.
FORMAT = 1


@dataclass(frozen=True)
class Description:
    """The contract of an exported file.

    finds: the model's target keys, as ("boxes", "labels", "masks"), ("semantic",) or ("label",). categories: (id, name)
    in the order of labels, the first of which is `first_label`. channels: of images. resize: (short, longest), as
    `make_batch` takes it, or None. pad_to: shapes (H, W) to pad batches to where images fit; else the maximum of the
    batch is rounded up to `pad_multiple`. size: the one (H, W) that the file takes, or None. batch_size: the one number
    of images that it takes, or None.
    """

    head: str
    backbone: str
    finds: tuple[str, ...]
    first_label: int
    categories: tuple[tuple[int, str], ...]
    channels: int
    resize: tuple[int, int] | None
    pad_to: tuple[tuple[int, int], ...]
    size: tuple[int, int] | None
    batch_size: int | None
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    pad_multiple: int = PAD_MULTIPLE
    format: int = FORMAT

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @property
    def named(self) -> tuple[Category, ...]:
        return tuple(Category(id, name) for id, name in self.categories)


def read_description(text: str | None, path: object) -> Description:
    """Read what `to_json` wrote; `path` is the file that it was in, for messages."""
    if text is None:
        raise InputError(f"{path} says nothing of classes and sizes; only files that `vertebra export` wrote are read")
    values = json.loads(text)
    if values.get("format") != FORMAT:
        raise InputError(
            f"{path} has format {values.get('format')}, and this version reads {FORMAT}; export the run again"
        )
    return Description(**{name: _tuples(value) for name, value in values.items()})


def _tuples(value: Any) -> Any:
    """Return JSON's lists as tuples, at all depths."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        return tuple(map(_tuples, value))
    return value
