"""Mending a file of annotations: what can be put right is, what cannot is dropped, and each change is written down."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ....backbones import InputError
from .changes import Change, Changes, said
from .mended_annotations import MendedAnnotations
from .mended_images import MendedImages
from .records import CATEGORY, completed, flaw, is_name, is_whole, name_of_category, shown
from .source import Source


def repair(source: Source) -> tuple[dict[str, Any], list[Change]]:
    """Return a copy of a file of annotations in order, and the list of what was changed."""
    changes = Changes(source.name)
    images = MendedImages(source, changes)
    categories = _categories(source, changes)
    known = {category["id"] for category in categories}
    annotations = MendedAnnotations(source.document["annotations"], images, known, changes)
    document = {
        **source.document,
        "images": images.records,
        "categories": categories,
        "annotations": annotations.records,
    }
    return document, changes


def _categories(source: Source, changes: Changes) -> list[dict[str, Any]]:
    kept: dict[int, dict[str, Any]] = {}
    for position, given in enumerate(source.document["categories"]):
        where, wrong = name_of_category(given, position), flaw(given, CATEGORY)
        record = completed(given, CATEGORY) if isinstance(given, dict) else {}
        if not is_whole(record.get("id")):
            changes.note("malformed_category", where, "dropped")
            continue
        if not is_name(record.get("name")):
            record["name"] = f"category {record['id']}"
        if wrong:
            changes.note("malformed_category", where, f"{wrong}; now {said(record, CATEGORY)}")
        if record["id"] in kept:
            first, other = (shown(str(r["name"])) for r in (kept[record["id"]], record))
            changes.note("repeated_category_id", where, f"{other} dropped: it stays {first}")
            continue
        kept[record["id"]] = record
    return list(kept.values())


# --- writing --------------------------------------------------------------------------------------------------------


def targets(sources: Sequence[tuple[str, Path, Path]], output: Path) -> list[Path]:
    """Return where the copies of annotation files go, given as for `open_sources`, and refuse places that are taken.

    One file goes to `output` itself, several go into it as a folder, by their own names; where these are not different,
    each in a folder of its split.
    """
    files = [path for _, path, _ in sources]
    if len(files) == 1:
        places = [output]
    elif max(Counter(path.name for path in files).values()) > 1:
        places = [output / split / path.name for split, path, _ in sources]
    else:
        places = [output / path.name for path in files]
    for place in (output, *places, list_of_changes(output, places)):
        if place.exists():
            raise InputError(f"{place} exists already; --fix writes a copy, so name a place that is not taken")
    return places


def list_of_changes(output: Path, places: Sequence[Path]) -> Path:
    """Return where the list of changes goes: into the folder of copies, or beside the one copy."""
    return output.with_suffix(".changes.json") if places == [output] else output / "changes.json"


def write_json(path: Path, value: Mapping[str, Any] | Sequence[Any], indent: int | None = None) -> None:
    """Write a new file, whole or not at all."""
    scratch = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch.write_text(json.dumps(value, indent=indent) + "\n")
        scratch.replace(path)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror or error}") from error
