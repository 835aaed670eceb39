"""From files of annotations to what the checks look at: the records as they are, and each image file read once."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from rich.console import Console

from ....backbones import InputError
from .files import ImageFile, in_parallel
from .records import read_document
from .source import Source, file_names

OUTSIDE = ImageFile("outside_folder")


Files = Sequence[tuple[str, Path, Path]]  # split, annotations, folder of images


def each_once(files: Iterable[tuple[str, Path, Path]]) -> Files:
    """Return the files each once: one that several splits share goes under their joined names."""
    splits: dict[tuple[Path, Path], list[str]] = defaultdict(list)
    for split, path, folder in files:
        splits[path, folder].append(split)
    return [("+".join(names), path, folder) for (path, folder), names in splits.items()]


def open_sources(files: Files, read: Callable[[Path], ImageFile], workers: int, console: Console) -> list[Source]:
    """Open files of annotations; `read` tells what an image file is like, and is asked once for each."""
    for _, _, folder in files:
        if not folder.is_dir():
            raise InputError(f"no folder of images at {folder}; check --data-root and the data set's `images`")
    documents = [read_document(annotations) for _, annotations, _ in files]
    places = [
        {name: place_of(folder, name) for name in file_names(document)}
        for document, (_, _, folder) in zip(documents, files, strict=True)
    ]
    paths = list(dict.fromkeys(path for named in places for path in named.values() if path is not None))
    known = dict(zip(paths, in_parallel(read, paths, workers, console, "reading images"), strict=True))
    splits = Counter(split for split, _, _ in files)
    return [
        Source(
            split,
            split if splits[split] == 1 else f"{split} ({annotations.name})",
            annotations,
            folder,
            document,
            {name: OUTSIDE if path is None else known[path] for name, path in named.items()},
        )
        for (split, annotations, folder), document, named in zip(files, documents, places, strict=True)
    ]


def place_of(folder: Path, name: str) -> Path | None:
    """Return the path of a file that is named relative to a folder, or None where the name leads out of it.

    By the name alone: links that somebody made within the folder are meant.
    """
    path = Path(os.path.abspath(folder / name))
    return path if path.is_relative_to(os.path.abspath(folder)) else None
