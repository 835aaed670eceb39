"""CIFAR-10 and CIFAR-100 in their binary version: records of label bytes and 32x32 pixels, plane by plane."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...backbones import InputError
from ...backbones.errors import unknown
from .formats import read_names
from .sets import Array, Category, ImageSet, pick_targets

SIDE = 32
PIXELS = 3 * SIDE * SIDE


@dataclass(frozen=True)
class Cifar:
    """Where one of the two sets has what. The class is the last of a record's label bytes."""

    folder: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    names: str
    label_bytes: int
    classes: int
    pickled: tuple[str, ...]  # what lies there where the Python version was unpacked instead


KINDS = {
    "cifar10": Cifar(
        folder="cifar-10-batches-bin",
        train=tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
        test=("test_batch.bin",),
        names="batches.meta.txt",
        label_bytes=1,
        classes=10,
        pickled=("cifar-10-batches-py", "data_batch_1"),
    ),
    "cifar100": Cifar(
        folder="cifar-100-binary",
        train=("train.bin",),
        test=("test.bin",),
        names="fine_label_names.txt",
        label_bytes=2,  # coarse, fine
        classes=100,
        pickled=("cifar-100-python", "train"),
    ),
}


@dataclass(frozen=True, slots=True)
class CifarImage:
    """One record of a file, whose `records` (N, bytes) are mapped into memory and shared by its images."""

    id: int
    path: Path
    records: Array
    index: int
    kind: Cifar

    def read(self) -> Array:
        """Return the pixels, uint8 RGB (32, 32, 3)."""
        planes = self.records[self.index, self.kind.label_bytes :].reshape(3, SIDE, SIDE)
        return np.array(planes.transpose(1, 2, 0), order="C")

    def targets(self, keys: Sequence[str]) -> dict[str, Array]:
        """Return `label`, a number without dimensions, where it is asked for."""
        return pick_targets({"label": self._label}, keys)

    def _label(self) -> Array:
        label = int(self.records[self.index, self.kind.label_bytes - 1])
        if label >= self.kind.classes:
            raise InputError(
                f"record {self.index} of {self.path} has class {label}, there are {self.kind.classes}; "
                "unpack the files again"
            )
        return np.array(label, np.int64)


def read_cifar(root: Path, split: str, *, kind: str, held_out: int = 5000) -> ImageSet:
    """Read `train`, `val` or `test` of the set `kind` (cifar10, cifar100), from its folder or the one above.

    The last `held_out` of the training images are val, the others train; 5000 is the split of the ResNet papers. With 0
    the test images are val.
    """
    if kind not in KINDS:
        raise unknown("CIFAR set", kind, KINDS)
    if split not in ("train", "val", "test"):
        raise unknown("split of CIFAR", split, ("train", "val", "test"))
    row = KINDS[kind]
    folder = root / row.folder if (root / row.folder).is_dir() else root
    held_in_test = split == "test" or (split == "val" and held_out == 0)
    files = row.test if held_in_test else row.train
    _check_files(folder, (*files, row.names), row)
    categories = tuple(Category(id, name) for id, name in enumerate(read_names(folder / row.names)))
    if len(categories) != row.classes:
        raise InputError(f"{folder / row.names} names {len(categories)} classes; {kind} has {row.classes}")
    records = [(folder / file, _map(folder / file, row)) for file in files]
    places = [(path, mapped, index) for path, mapped in records for index in range(len(mapped))]
    images = tuple(CifarImage(id, *place, row) for id, place in enumerate(places, start=1))
    if held_in_test:
        return ImageSet(folder, categories, images)
    if not 0 <= held_out < len(images):
        raise InputError(
            f"held_out={held_out}; of the {len(images)} training images of {folder} 0 to {len(images) - 1} can be"
        )
    first = len(images) - held_out
    return ImageSet(folder, categories, images[:first] if split == "train" else images[first:])


def _check_files(folder: Path, files: Sequence[str], kind: Cifar) -> None:
    missing = [name for name in files if not (folder / name).is_file()]
    if not missing:
        return
    for name in kind.pickled:
        if (folder / name).exists():
            raise InputError(
                f"{folder / name} is the Python version, of pickled files, which can run code; unpack the binary "
                f"version, {kind.folder}, instead"
            )
    raise InputError(f"{folder} lacks {', '.join(missing)}; unpack the binary version, {kind.folder}, there")


def _map(path: Path, kind: Cifar) -> Array:
    """Return the records (N, bytes) of a file, mapped, not read."""
    record, size = kind.label_bytes + PIXELS, path.stat().st_size
    if size == 0 or size % record:
        raise InputError(f"{path} has {size} bytes, not a multiple of {record}, a record's size; is it cut short?")
    return np.memmap(path, np.uint8, mode="r").reshape(-1, record)
