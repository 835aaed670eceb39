"""Data sets from one format to another: read into a common form, and written from it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from ..backbones import InputError
from ..backbones.errors import unknown
from .data.exchange.coco import write_coco
from .data.exchange.common import IMAGES, Collection, Notes, Part, Picture, Place
from .data.exchange.label_pngs import write_label_pngs
from .data.exchange.voc_writer import write_voc
from .data.exchange.yolo_writer import box_line, outline_line, write_yolo
from .exchange_readers import READERS, recognise

Writer = Callable[[Collection, Path, Notes, Place], None]

WRITERS: dict[str, Writer] = {
    "coco": write_coco,
    "yolo": partial(write_yolo, line=box_line),
    "yolo-seg": partial(write_yolo, line=outline_line),
    "voc": write_voc,
    "png": write_label_pngs,
}

Watch = Callable[[Iterable[Picture], str, int], Iterable[Picture]]  # passes pictures on, and shows how many there were


def convert(
    source: str,
    target: Path,
    *,
    to: str,
    form: str | None = None,
    root: str | None = None,
    images: str = "link",
    watch: Watch = lambda pictures, name, count: pictures,
) -> list[str]:
    """Write a data set in another format, as a folder that appears whole or not at all; return what there is to say.

    form: the format of the source, where what lies there does not tell. root: where the data set is that `source`
    names, or the images of the file that it is. images: how they come along: link, copy or none.
    """
    for option, name, known in (("--to", to, WRITERS), ("--from", form, READERS), ("--images", images, IMAGES)):
        if name is not None and name not in known:
            raise unknown(option, name, known)
    if target.exists():
        raise InputError(f"{target} exists already; choose another folder or remove it")
    form = form or recognise(source)
    if root is not None and (Path(source).is_dir() or form in ("yolo", "voc")):
        raise InputError(f"--data-root is for data sets by name and annotation files; {source} says where it is itself")
    if form == to.split("-")[0]:
        raise InputError(f"{source} is in the format {form} already; choose another with --to")
    notes, counts = Notes(), dict[str, int]()
    collection = READERS[form].read(source, root, notes)
    watched = tuple(_watched(part, counts, watch) for part in collection.parts)
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}-"))
    try:
        WRITERS[to](replace(collection, parts=watched), scratch, notes, IMAGES[images])
        scratch.chmod(0o755)
        scratch.rename(target)
    except OSError as error:
        raise InputError(f"{target} cannot be written: {error}") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    found = [f"{part.name}: {len(part.names):,} images, {counts[part.name]:,} objects" for part in collection.parts]
    names = collection.categories
    shown = ", ".join(names[:10]) + (", …" if len(names) > 10 else "")
    return [f"{source} is in the format {form}", *found, f"{len(names)} classes: {shown}", *notes.lines()]


def _watched(part: Part, counts: dict[str, int], watch: Watch) -> Part:
    def pictures() -> Iterator[Picture]:
        counts[part.name] = 0
        for picture in watch(part.pictures, part.name, len(part.names)):
            counts[part.name] += len(picture.objects)
            yield picture

    return replace(part, pictures=pictures())
