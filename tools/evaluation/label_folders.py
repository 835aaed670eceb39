"""Semantic segmentation without a model: a folder of label PNGs against another."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...backbones import InputError
from ..data.labels import read_values
from .semantic import SemanticEvaluator

Array = np.ndarray[Any, np.dtype[Any]]

# More different values than this are no labels, but a picture or a map of depths.
MOST_CLASSES = 1000


def evaluate_label_folders(
    predictions: Path, labels: Path, names: Mapping[int, str] | Sequence[str] | None = None, *, ignore: int = 255
) -> tuple[dict[str, dict[str, float]], str]:
    """Score label PNGs (greyscale or palette, 8 or 16 bit) against those of the same names; metrics and text.

    names: of the values of pixels, or in the order of 0, 1, …; None: every value found is a class, called by its
    number. Subfolders are read too. A PNG without its partner, of another size, or with other values is an InputError.
    The metrics are those of SemanticEvaluator.
    """
    return read_label_folders(predictions, labels, names, ignore=ignore).compute()


def read_label_folders(
    predictions: Path,
    labels: Path,
    names: Mapping[int, str] | Sequence[str] | None = None,
    *,
    ignore: int = 255,
    see: Callable[[SemanticEvaluator, Array, Array], object] = lambda *_: None,
) -> SemanticEvaluator:
    """Return what evaluate_label_folders computes from.

    see: called after each pair with the evaluator, and labels and prediction (H, W) as its classes, -1 for none.
    """
    pairs = _pairs(predictions, labels)
    if names is None:
        names = {value: str(value) for value in _values(pairs, ignore)}
    elif not isinstance(names, Mapping):
        names = dict(enumerate(names))
    classes = {value: name for value, name in names.items() if value != ignore}
    if not all(0 <= value < 2**16 for value in classes):
        raise InputError(f"values {_list(sorted(classes))} are classes; those of 16-bit PNGs are 0..65535")
    evaluator = SemanticEvaluator(list(classes.values()), ignore=-1)
    index_of = np.full(2**16, -1)
    index_of[list(classes)] = np.arange(len(classes))
    for found_path, truth_path in pairs:
        truth, found = _read_pair(found_path, truth_path)
        counted = truth != ignore
        for path, values in ((truth_path, truth), (found_path, found)):
            odd = counted & (index_of[values] < 0)
            if odd.any():
                raise InputError(
                    f"{path} has the value {values[odd][0]}, which is no class; the classes are "
                    f"{_list(sorted(classes))}; only where the label is {ignore} the prediction is free"
                )
        true_classes, found_classes = np.where(counted, index_of[truth], -1), index_of[found]
        evaluator.update([true_classes], [found_classes], [truth_path.relative_to(labels).as_posix()])
        see(evaluator, true_classes, found_classes)
    return evaluator


def _pairs(predictions: Path, labels: Path) -> list[tuple[Path, Path]]:
    """Return the files of both folders by their names in them; an InputError where one has no partner."""
    found, truth = _files(predictions), _files(labels)
    for missing, folder, other in ((truth - found, predictions, labels), (found - truth, labels, predictions)):
        if missing:
            raise InputError(
                f"{folder} has no partner for {len(missing)} of the PNGs in {other}: {_list(sorted(missing))}; "
                "the same names are expected in both folders"
            )
    return [(predictions / name, labels / name) for name in sorted(truth)]


def _files(folder: Path) -> set[Path]:
    if not folder.is_dir():
        raise InputError(f"no folder at {folder}; a folder of label PNGs is expected")
    files = {path.relative_to(folder) for path in folder.rglob("*") if path.suffix.lower() == ".png"}
    if not files:
        raise InputError(f"no PNGs in {folder}")
    return files


def _read_pair(found_path: Path, truth_path: Path) -> tuple[Array, Array]:
    truth, found = read_values(truth_path), read_values(found_path)
    if truth.shape != found.shape:
        raise InputError(
            f"{found_path} is {found.shape[1]}x{found.shape[0]} and {truth_path} is {truth.shape[1]}x{truth.shape[0]}; "
            "a prediction has the size of its labels"
        )
    return truth, found


def _values(pairs: Sequence[tuple[Path, Path]], ignore: int) -> list[int]:
    """Return every value in labels and predictions, where the label is not to be ignored."""
    values: set[int] = set()
    for found_path, truth_path in pairs:
        truth, found = _read_pair(found_path, truth_path)
        counted = truth != ignore
        values |= {*np.unique(truth[counted]).tolist(), *np.unique(found[counted]).tolist()}
        if ignore in values:
            raise InputError(f"{found_path} has the value {ignore} where there is a label, and {ignore} is no class")
        if len(values) > MOST_CLASSES:
            raise InputError(
                f"more than {MOST_CLASSES} different values up to {truth_path} and its prediction: no labels"
            )
    if not values:
        raise InputError(f"every label is {ignore}, to be ignored: nothing to measure")
    return sorted(values)


def _list(names: Sequence[object]) -> str:
    return ", ".join(map(str, names[:5])) + (" …" if len(names) > 5 else "")
