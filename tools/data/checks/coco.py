"""Finding what is wrong with a data set in COCO's format. Each check is a generator of what it finds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence

from rich.console import Console
from rich.progress import track

from .boxes import Mask, Size, agree, clipped, reach, read_mask
from .content import equal_images, part_of
from .kinds import REACH, Finding
from .records import (
    ANNOTATION,
    CATEGORY,
    IMAGE,
    Box,
    box_text,
    flaw,
    name_of_annotation,
    name_of_category,
    name_of_image,
    read_box,
    shown,
)
from .report import Report
from .source import Record, Source, has_other_size, ids, same_file, sound


def malformed(source: Source) -> Iterator[Finding]:
    lists = (
        ("malformed_image", "images", IMAGE, name_of_image),
        ("malformed_category", "categories", CATEGORY, name_of_category),
        ("malformed_annotation", "annotations", ANNOTATION, name_of_annotation),
    )
    for kind, key, fields, name in lists:
        for position, record in enumerate(source.document[key]):
            if wrong := flaw(record, fields):
                yield source.finding(kind, name(record, position), wrong)


def image_files(source: Source) -> Iterator[Finding]:
    for where, record in source.images:
        file = source.files[record["file_name"]]
        if file.fault:
            yield source.finding(file.fault, where, file.detail)
            continue
        if has_other_size(record, file):
            said = f"the file is {file.width}x{file.height}, the JSON says {record['width']}x{record['height']}"
            yield source.finding("wrong_size", where, said)
        if file.cmyk:
            yield source.finding("cmyk_image", where)
        if file.orientation != 1:
            yield source.finding("rotated_image", where, f"orientation {file.orientation}")


def repeated_images(source: Source) -> Iterator[Finding]:
    by_id: dict[int, Record] = {}
    by_file: dict[str, Record] = {}
    for where, record in source.images:
        first = by_id.setdefault(record["id"], record)
        if first is not record:
            yield source.finding("repeated_image_id", where, f"the first is {shown(first['file_name'])}")
            continue
        first = by_file.setdefault(same_file(record["file_name"]), record)
        if first is not record:
            yield source.finding("repeated_file_name", where, f"the first is image {first['id']}")


def repeated_categories(source: Source) -> Iterator[Finding]:
    by_id: dict[int, str] = {}
    by_name: dict[str, int] = {}
    for category in source.categories:
        id, name = category["id"], category["name"]
        where = f"category {id} ({shown(name)})"
        if id in by_id:
            yield source.finding("repeated_category_id", where, f"the first is {shown(by_id[id])}")
            continue
        if name in by_name:
            yield source.finding("repeated_category_name", where, f"category {by_name[name]} has that name")
        by_id[id] = name
        by_name.setdefault(name, id)


def references(source: Source) -> Iterator[Finding]:
    """Annotations against the ids of images and categories, and against each other's."""
    images, categories = ids(source.document["images"]), ids(source.document["categories"])
    seen: set[int] = set()
    for where, record in sound(source.document["annotations"], ANNOTATION, name_of_annotation):
        if record["image_id"] not in images:
            yield source.finding("unknown_image", where, f"image_id {record['image_id']}")
        if record["category_id"] not in categories:
            yield source.finding("unknown_category", where, f"category_id {record['category_id']}")
        if record["id"] in seen:
            yield source.finding("repeated_annotation_id", where, f"in image {record['image_id']}")
        seen.add(record["id"])


def outlines(source: Source) -> Iterator[Finding]:
    """Boxes and masks against their image, and against each other.

    Those of images whose size is in doubt are left for when that is mended: they would be wrong in one of the two.
    """
    doubtful = {r["id"] for _, r in source.images if has_other_size(r, source.files[r["file_name"]])}
    for where, record in source.objects:
        if record["image_id"] in doubtful:
            continue
        where, size = f"{where} of image {record['image_id']}", source.sizes[record["image_id"]]
        mask = read_mask(record, size)
        if mask.flaw:
            yield source.finding("malformed_mask", where, mask.flaw)
        elif mask.short:
            yield source.finding("short_polygon", where, f"{mask.short} of {len(record['segmentation'])} polygons")
        for kind, detail in box_faults(record.get("bbox"), mask, size):
            yield source.finding(kind, where, detail)


def box_faults(value: object, mask: Mask, size: Size) -> Iterator[tuple[str, str]]:
    """Yield what is wrong with a box, as kind and detail."""
    box = read_box(value)
    if box is None:
        yield "malformed_box", f"bbox {box_text(value)}"
        return
    part = clipped(box, size)
    if part is None:
        yield "degenerate_box", f"bbox {box_text(value)} in {size[1]}x{size[0]}"
        return
    if reach(box, size) > REACH:
        yield "box_outside", f"bbox {box_text(value)} in {size[1]}x{size[0]}"
    if mask.box is not None and not agree(part, mask.box):
        yield "box_off_mask", f"bbox {box_text(value)}, the mask's {box_text(list(mask.box))}"


def duplicates(source: Source) -> Iterator[Finding]:
    seen = Seen()
    for where, record in source.objects:
        box = read_box(record.get("bbox"))
        first = seen.equal(record, box) if box else None
        if first is not None:
            yield source.finding(
                "duplicate_box", where, f"equals annotation {first['id']} of image {first['image_id']}"
            )


class Seen:
    """The annotations so far, by what makes them equal."""

    def __init__(self) -> None:
        self._by_box: dict[tuple[int, int, bool, Box], list[Record]] = defaultdict(list)

    def equal(self, record: Record, box: Box) -> Record | None:
        """Return the annotation that this one equals in image, category, box and mask, or keep it for later ones."""
        same = self._by_box[record["image_id"], record["category_id"], bool(record.get("iscrowd")), box]
        mask = record.get("segmentation") or None
        for other in same:
            if (other.get("segmentation") or None) == mask:
                return other
        same.append(record)
        return None


def unused(source: Source) -> Iterator[Finding]:
    seen_images = {record["image_id"] for _, record in source.objects}
    seen_categories = {record["category_id"] for _, record in source.objects}
    for where, record in source.images:
        if record["id"] not in seen_images:
            yield source.finding("empty_image", where)
    for id, name in source.names.items():
        if id not in seen_categories:
            yield source.finding("unused_category", f"category {id} ({shown(name)})")


CHECKS: tuple[Callable[[Source], Iterator[Finding]], ...] = (
    malformed,
    image_files,
    repeated_images,
    repeated_categories,
    references,
    outlines,
    duplicates,
    unused,
)


def check_sources(sources: Sequence[Source], console: Console) -> Report:
    """Check files of annotations and their images, each by itself and the images of all against each other."""
    steps = [(source, step) for source in sources for step in CHECKS]
    found = track(steps, "checking annotations", console=console, disable=not console.is_terminal)
    findings = [finding for source, step in found for finding in step(source)]
    parts = [part_of(source) for source in sources]
    return Report(parts, [*findings, *equal_images(parts)])


def differing_categories(sources: Sequence[Source]) -> Iterator[Finding]:
    """Compare the categories of each split with those of the first.

    A split of joined files has those of all; then names alone count, as joining them makes one of equal names.
    """
    joined = len({source.split for source in sources}) < len(sources)
    found: dict[str, dict[object, str]] = defaultdict(dict)
    for source in sources:
        found[source.split] |= {
            name if joined else (id, name): f"{id} ({shown(name)})" for id, name in source.names.items()
        }
    first, *others = found
    for split in others:
        for one, other in ((split, first), (first, split)):
            for category in found[other].keys() - found[one].keys():
                yield Finding("other_categories", one, f"category {found[other][category]}", f"is in {other}")
