"""The records of an annotation file, of which each may be anything that JSON can hold."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ....backbones import InputError

Box = tuple[float, float, float, float]
Fields = Mapping[str, Callable[[Any], bool]]


def read_document(path: Path) -> dict[str, Any]:
    """Return the file as it is; one that is not JSON, or lacks one of the three lists, is an InputError."""
    try:
        document = json.loads(path.read_bytes())
    except OSError as error:
        raise InputError(f"no annotations at {path} ({error.strerror}); check --data-root") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not JSON: {error}") from error
    missing = [
        key
        for key in ("images", "annotations", "categories")
        if not isinstance(document, dict) or not isinstance(document.get(key), list)
    ]
    if missing:
        raise InputError(f"{path} is not a COCO instances file: it has no list {', '.join(map(repr, missing))}")
    found: dict[str, Any] = document
    return found


def is_whole(value: Any) -> bool:
    return type(value) is int and -(2**63) <= value < 2**63  # what an array of ids can hold; True is no number


def is_length(value: Any) -> bool:
    return is_whole(value) and 1 <= value <= 2**20  # the longest side that OpenCV reads


def is_number(value: Any) -> bool:
    try:
        return type(value) in (int, float) and math.isfinite(value)
    except OverflowError:  # a whole number beyond all floats
        return False


def is_name(value: Any) -> bool:
    """Return whether this is text that a file can be named by: JSON may have half characters and zero bytes."""
    try:
        return isinstance(value, str) and value != "" and b"\0" not in value.encode()
    except UnicodeEncodeError:
        return False


def is_absent_or_number(value: Any) -> bool:
    return value is None or is_number(value)


IMAGE: Fields = {"id": is_whole, "file_name": is_name, "height": is_length, "width": is_length}
CATEGORY: Fields = {"id": is_whole, "name": is_name}
ANNOTATION: Fields = {
    "id": is_whole,
    "image_id": is_whole,
    "category_id": is_whole,
    "area": is_absent_or_number,
}


def flaw(record: Any, fields: Fields) -> str:
    """Return what is wrong with a record that should have these fields, or nothing."""
    if not isinstance(record, dict):
        return f"is {_short(record)}, no record"
    for key, is_sound in fields.items():
        if not is_sound(record.get(key)):
            return f"has {key} {_short(record[key])}" if key in record else f"has no {key}"
    return ""


def name_of(what: str, record: Any, position: int) -> str:
    """Return how to call a record: by its id, or by its position in the list, from 0."""
    if isinstance(record, dict) and is_whole(record.get("id")):
        return f"{what} {record['id']}"
    return f"{what} at position {position}"


def name_of_annotation(record: Any, position: int) -> str:
    return name_of("annotation", record, position)


def name_of_category(record: Any, position: int) -> str:
    return name_of("category", record, position)


def name_of_image(record: Any, position: int) -> str:
    name = record.get("file_name") if isinstance(record, dict) else None
    return name_of("image", record, position) + (f" ({shown(name)})" if isinstance(name, str) else "")


def shown(text: str) -> str:
    """Return text from a data set as it can be shown on a terminal."""
    return text if text.isprintable() else ascii(text)


def _short(value: Any) -> str:
    text = ascii(value)
    return text if len(text) <= 40 else text[:39] + "…"


def read_box(value: Any) -> Box | None:
    """Return x, y, width and height where these are four finite numbers."""
    if not isinstance(value, list) or len(value) != 4 or not all(map(is_number, value)):
        return None
    x, y, width, height = map(float, value)
    return x, y, width, height


def box_text(box: Any) -> str:
    return _short(box) if read_box(box) is None else "[" + ", ".join(f"{float(side):.6g}" for side in box) + "]"


# --- what --fix makes of values that are almost right ---------------------------------------------------------------


def as_number(value: Any) -> Any:
    """Return a number that was written as text, or the value as it is; whole numbers come back as int."""
    if isinstance(value, str) and len(value) <= 40:
        try:
            value = float(value) if not value.strip().lstrip("+-").isdecimal() else int(value)
        except ValueError:
            return value
    return int(value) if isinstance(value, float) and value.is_integer() else value


def completed(record: Mapping[str, Any], fields: Fields) -> dict[str, Any]:
    """Return the record with numbers for the fields that are none but are written as one."""
    wrong = {key: as_number(record[key]) for key, sound in fields.items() if key in record and not sound(record[key])}
    return {**record, **{key: value for key, value in wrong.items() if fields[key](value)}}
