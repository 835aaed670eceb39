"""From a COCO file to its store in the cache: made once, found again by the file's path or content."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import struct
import tempfile
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ...backbones import InputError
from .cache import cache_folder
from .document import records
from .segments import AS_GIVEN, NONE, pack
from .store import ANNOTATION, IMAGE, VERSION, Damaged, Store, checksum, write_index

# A file from this size on takes seconds, so that a progress bar is shown.
LARGE = 32 << 20

# What OpenCV reads. pycocotools walks along the edges of polygons, which images bound.
LONGEST, MOST_PIXELS = 1 << 20, 1 << 30

Advance = Callable[[int], object]


def open_annotations(path: Path) -> Store:
    """Return the store of a COCO instances file, made now where the cache has none for it.

    Known by its path, size and time, else by its content, so that a file that was copied or touched is not read again.
    Several processes may start at once: one makes it, the others wait. It allocates at most 250 bytes an image and 40
    an annotation, beside the largest record; pages of its own files, which the system may take back at any time, come
    on top. On disk it takes about as much room as the file, twice while it is made.
    """
    from filelock import FileLock

    try:
        stat = path.stat()
    except OSError as error:
        raise InputError(f"no annotations at {path} ({error.strerror}); check --data-root") from error
    folder = cache_folder() / "annotations"
    known = folder / f"{hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:24]}.json"
    version = [VERSION, stat.st_size, stat.st_mtime_ns]
    with _writable(folder):
        folder.mkdir(parents=True, exist_ok=True)
        found = _known(known, version, path)
        if found is not None:
            return found
        with FileLock(known.with_suffix(".lock")):
            found = _known(known, version, path)
            if found is not None:
                return found
            content = _content(path)
            store = _made(folder / content, path)
            after = path.stat()
            if (after.st_size, after.st_mtime_ns) != (stat.st_size, stat.st_mtime_ns):
                shutil.rmtree(store.folder, ignore_errors=True)
                raise InputError(f"{path} was written to while it was read; start again when it is complete")
            handle, pointer = tempfile.mkstemp(dir=folder, prefix=f".{known.stem}-")
            with os.fdopen(handle, "w") as file:
                json.dump({"file": version, "store": content}, file)
            Path(pointer).replace(known)
    return store


@contextmanager
def _writable(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(
            f"the cache {folder} cannot be written ({error.strerror or error}); make room there, or set XDG_CACHE_HOME "
            "to a folder that has it"
        ) from error


def _known(pointer: Path, version: Sequence[int], source: Path) -> Store | None:
    """Return the store that a path is known to have, or None where there is none, an old or a damaged one."""
    try:
        known = json.loads(pointer.read_bytes())
        if known["file"] == list(version):
            return Store(pointer.parent / known["store"], source)
    except (OSError, ValueError, KeyError, TypeError, Damaged):
        pass
    return None


def _content(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()[:24] + f"-{VERSION}"


def _made(folder: Path, source: Path) -> Store:
    """Return the store in a folder, which appears there whole."""
    try:
        return Store(folder, source)
    except Damaged:
        shutil.rmtree(folder, ignore_errors=True)
    scratch = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
    try:
        with _progress(source) as advance:
            _Writer(source, scratch, advance).write()
        try:
            scratch.rename(folder)
        except OSError:  # another path with the same content was faster
            if not folder.is_dir():
                raise
        return Store(folder, source)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def _progress(source: Path) -> Iterator[Advance]:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    size = source.stat().st_size
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=size < LARGE or not console.is_terminal) as progress:
        task = progress.add_task(f"indexing {source.name}, once", total=2 * size)
        yield lambda count: progress.advance(task, count)


class _Writer:
    """Writes the store of a file into a folder."""

    rows = struct.Struct("<qi??B4ddq")  # ANNOTATION

    def __init__(self, source: Path, folder: Path, advance: Advance) -> None:
        self.source = source
        self.folder = folder
        self.advance = advance
        self.categories: dict[int, str] = {}
        self.ids, self.heights, self.widths, self.names = array("q"), array("i"), array("i"), array("q")
        self.images: dict[int, int] = {}  # row by id
        self.places: dict[int, int] = {}  # of the categories, in order of id
        self.of_image = array("i")  # the row of each annotation's image
        self.nameless = array("q")
        self.empty = array("q")
        self.unmasked = self.highest = self.end = 0

    def write(self) -> None:
        with (self.folder / "names").open("wb") as names:
            self._read({"categories": self._category, "images": lambda record: self._image(record, names)})
        if not self.ids or not self.categories:
            raise InputError(
                f"{self.source} lists {len(self.ids)} images and {len(self.categories)} categories; both are needed"
            )
        self.places = {id: place for place, id in enumerate(sorted(self.categories))}
        with (self.folder / "unsorted").open("wb") as table, (self.folder / "unsorted_segments").open("wb") as segments:
            self._read({"annotations": lambda record: self._annotation(record, table, segments)})
        self._name()
        self._sort(np.frombuffer(self.of_image, "<i4"))
        for name, _ in _UNSORTED:
            (self.folder / name).unlink()
        rows = {"images": len(self.ids), "annotations": len(self.of_image)}
        rows |= {name: (self.folder / name).stat().st_size for name in ("names", "segments")}
        categories = sorted(self.categories.items())
        facts = {"empty": [len(self.empty), (*self.empty, 0)[0]], "unmasked": self.unmasked}
        write_index(self.folder, {"version": VERSION, "categories": categories, "rows": rows, **facts})

    def _read(self, consume: Mapping[str, Callable[[dict[str, Any]], None]]) -> None:
        """Read the file, and hand on the records of each of these lists."""
        for name, record in records(self.source, consume, self.advance):
            try:
                consume[name](record)
            except InputError as error:
                raise InputError(f"{self.source}: {error}") from error
            except (KeyError, TypeError, ValueError, OverflowError, struct.error) as error:
                reason = f"a record lacks {error}" if isinstance(error, KeyError) else str(error)
                raise InputError(
                    f"{self.source} is not a COCO instances file: {reason} (in {name}: {str(record)[:60]} …)"
                ) from error

    def _category(self, record: Mapping[str, Any]) -> None:
        id, name = int(record["id"]), str(record["name"])
        if id in self.categories:
            raise InputError(
                f"categories {self.categories[id]!r} and {name!r} have the same id {id}; each needs its own"
            )
        self.categories[id] = name

    def _image(self, record: Mapping[str, Any], names: BinaryIO) -> None:
        id, name = int(record["id"]), str(record["file_name"])
        height, width = int(record["height"]), int(record["width"])
        if not (1 <= height <= LONGEST and 1 <= width <= LONGEST and height * width <= MOST_PIXELS):
            raise InputError(
                f"image {id} has height {height} and width {width}; sides are 1 to {LONGEST:,} pixels, and "
                f"{MOST_PIXELS:,} in all"
            )
        if id in self.images:
            raise InputError(f"two images have the id {id} (the second: {name!r}); each needs its own")
        self.heights.append(height)
        self.widths.append(width)
        self.images[id] = len(self.ids)
        self.ids.append(id)
        names.write(name.encode())
        self.names.append(names.tell())

    def _annotation(self, record: Mapping[str, Any], table: BinaryIO, segments: BinaryIO) -> None:
        id = record.get("id")
        image, category = self._of(record, "image_id", self.images), self._of(record, "category_id", self.places)
        x, y, width, height = map(float, record["bbox"])
        # As float32, which models learn it as.
        left, right, top, bottom = array("f", (x, x + width, y, y + height))
        if not math.isfinite((right - left) + (bottom - top)):
            raise InputError(f"annotation {id} has bbox {record['bbox']}; four finite numbers are needed")
        empty = right <= left or bottom <= top
        crowd = bool(record.get("iscrowd", 0))
        area = record.get("area")
        form, content = pack(record, self.heights[image], self.widths[image])
        if type(id) is not int:
            self.nameless.append(len(self.of_image))
            id = 0
        self.highest = max(self.highest, id)
        if not crowd:
            if empty:
                self.empty.append(id)
            elif form in (NONE, AS_GIVEN):
                self.unmasked += 1
        self.end += len(content)
        values = (x, y, width, height, math.nan if area is None else float(area), self.end)
        table.write(self.rows.pack(id, category, crowd, empty, form, *values))
        segments.write(content)
        self.of_image.append(image)

    def _of(self, record: Mapping[str, Any], key: str, known: Mapping[Any, int]) -> int:
        """Return the place of what a record belongs to."""
        value = record[key]
        place = known.get(value) if isinstance(value, (int, float)) else None
        if place is None:
            what, others = ("belongs to image", "images") if key == "image_id" else ("has category", "categories")
            raise InputError(f"annotation {record.get('id')} {what} {value!r}, which is not among the {others}")
        return place

    def _name(self) -> None:
        """Give annotations without an id one that is free."""
        with (self.folder / "unsorted").open("r+b") as table:
            for id, row in enumerate(self.nameless, start=self.highest + 1):
                table.seek(row * ANNOTATION.itemsize)
                table.write(struct.pack("<q", id))

    def _sort(self, of_image: np.ndarray[Any, np.dtype[np.int32]]) -> None:
        """Write the tables sorted by image, in the file's order within each."""
        order = np.argsort(of_image, kind="stable")
        ends = np.bincount(of_image, minlength=len(self.ids)).cumsum()
        table, pool = (_read_mapped(self.folder / name, dtype) for name, dtype in _UNSORTED)
        names = _read_mapped(self.folder / "names", np.dtype("u1"))
        image = np.zeros((), IMAGE)
        first, name_start, end = 0, 0, 0
        with (
            (self.folder / "images").open("wb") as images,
            (self.folder / "annotations").open("wb") as annotations,
            (self.folder / "segments").open("wb") as segments,
        ):
            for row, last in enumerate(ends.tolist()):
                places = order[first:last]
                rows = table[places]
                starts = np.where(places > 0, table["segment"][places - 1], 0).tolist()
                content = b"".join(pool[a:b].tobytes() for a, b in zip(starts, rows["segment"].tolist(), strict=True))
                rows["segment"] = end + (rows["segment"] - starts).cumsum()
                name = names[name_start : self.names[row]].tobytes()
                image["id"], image["height"], image["width"] = self.ids[row], self.heights[row], self.widths[row]
                image["name"], image["annotations"] = self.names[row], last
                image["check"] = checksum(image, name, rows, content)
                images.write(image.tobytes())
                annotations.write(rows.tobytes())
                segments.write(content)
                first, name_start, end = last, self.names[row], end + len(content)


_UNSORTED = (("unsorted", ANNOTATION), ("unsorted_segments", np.dtype("u1")))


def _read_mapped(path: Path, dtype: np.dtype[Any]) -> np.ndarray[Any, np.dtype[Any]]:
    return np.asarray(np.memmap(path, dtype, mode="r")) if path.stat().st_size else np.zeros(0, dtype)
