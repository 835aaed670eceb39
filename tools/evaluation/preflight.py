"""Mistakes in detections that give metrics near 0 although the boxes look right, each recognised and named."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

# So many images are looked at, from all over the annotations. An object is met where a box has this IoU with it.
IMAGES, MET = 300, 0.5

# Another reading of the boxes, or of the categories, is named if it fits so many of them, this share of them or more,
# and by this share more than the reading that is expected.
FITTING, SHARE, MORE = 8, 0.3, 0.2

# Of readings that fit nearly as well as the best, the first is named: the simplest.
NEARLY = 0.95

Reading = tuple[float, str]  # the share that it fits, and what it is


@dataclass(frozen=True)
class Sample:
    """Pairs (N,) of the objects and detections of some images, each object with each of the image's best detections.

    truth, found: boxes (N, 4), float, as files have them; size (N, 2): width and height of the image; row (N,): the
    object, of `objects`; categories of both by id.
    """

    truth: Array
    found: Array
    size: Array
    row: Array
    truth_category: Array
    found_category: Array
    objects: int

    def met(self, boxes: Array) -> Array:
        """Return (N,), bool: whether boxes, x, y, width and height, meet the objects."""
        return np.asarray(_iou(self.truth, boxes) >= MET)

    def share(self, pairs: Array) -> float:
        """Return the share of objects that are in one of the pairs, (N,), bool."""
        return len(np.unique(self.row[pairs])) / self.objects


def suspicions(document: Mapping[str, Any], results: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a line for each mistake that results, as COCO has them, look like; nothing where all looks right.

    A sample of the images is looked at. What is not sure is not named: few detections, or an untrained model's.
    """
    lines = [*_repeated(document), *_strangers(document, results)]
    sample = _sample(document, results)
    if sample is None:
        return lines
    return [*lines, *(_layout(sample) or _labels(sample, [category["id"] for category in document["categories"]]))]


def _repeated(document: Mapping[str, Any]) -> Iterator[str]:
    times = Counter(annotation.get("id") for annotation in document["annotations"])
    repeated = [id for id, count in times.items() if count > 1 and id is not None]
    if repeated:
        yield (
            f"annotation ids are there more than once ({_few(repeated)}); here each object counts, but pycocotools "
            "loses some"
        )


def _strangers(document: Mapping[str, Any], results: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield what is to say of ids in the results that are not in the annotations."""
    for what, records in (("image id", "images"), ("category id", "categories")):
        known = {record["id"] for record in document[records]}
        times = Counter(result[what.replace(" ", "_")] for result in results)
        strange = [id for id in times if id not in known]
        if strange and len(strange) == len(times):
            yield (
                f"no {what} of the results is in the annotations: there are {_few(times)}, and {_few(known)} are "
                "expected; are they those of another data set?"
            )
        elif strange:
            yield (
                f"{sum(times[id] for id in strange)} of {len(results)} results are not counted: the annotations have "
                f"no such {what} ({_few(strange)})"
            )


def _few(ids: Any) -> str:
    first = list(ids)[:3]
    return ", ".join(map(str, first)) + (" …" if len(ids) > len(first) else "")


def _sample(document: Mapping[str, Any], results: Sequence[Mapping[str, Any]]) -> Sample | None:
    """Return some images' objects beside their best detections; None where there is not enough to look at."""
    sizes = {record["id"]: (record.get("width"), record.get("height")) for record in document["images"]}
    found_in = {result["image_id"] for result in results}
    objects: dict[Any, list[Mapping[str, Any]]] = {}
    for annotation in document["annotations"]:
        image, box = annotation["image_id"], annotation.get("bbox")
        sound = box and box[2] > 0 and box[3] > 0 and not annotation.get("iscrowd")
        if sound and image in found_in and all(sizes.get(image) or [None]):
            objects.setdefault(image, []).append(annotation)
    images = list(objects)[:: -(-len(objects) // IMAGES) or 1]
    detections: dict[Any, list[Mapping[str, Any]]] = {image: [] for image in images}
    for result in results:
        if result["image_id"] in detections and "bbox" in result:
            detections[result["image_id"]].append(result)
    pairs: list[tuple[Any, ...]] = []
    count = 0
    for image in images:
        # No more than there are objects, so that many boxes do not meet them by chance.
        best = sorted(detections[image], key=lambda result: -float(result["score"]))[: len(objects[image])]
        for object in objects[image]:
            pairs += [
                (object["bbox"], result["bbox"], sizes[image], count, object["category_id"], result["category_id"])
                for result in best
            ]
            count += 1
    if not pairs:
        return None
    boxes, others, size, row, category, found_category = (np.array(values) for values in zip(*pairs, strict=True))
    return Sample(boxes.astype(float), others.astype(float), size.astype(float), row, category, found_category, count)


def _iou(boxes: Array, others: Array) -> Array:
    """Return the IoU (N,) of boxes x, y, width, height (N, 4) and others; 0 for those without area."""
    low = np.maximum(boxes[:, :2], others[:, :2])
    high = np.minimum(boxes[:, :2] + boxes[:, 2:], others[:, :2] + others[:, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=1)
    union = np.clip(boxes[:, 2:], 0, None).prod(axis=1) + np.clip(others[:, 2:], 0, None).prod(axis=1) - shared
    iou: Array = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return iou


def _from_corners(boxes: Array) -> Array:
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)


def _from_centre(boxes: Array) -> Array:
    return np.concatenate([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, 2:]], axis=1)


# What the four numbers of a box may be, and how they are brought to x, y, width, height.
LAYOUTS: dict[str, Callable[[Array], Array]] = {
    "x, y, width, height": lambda boxes: boxes,
    "x1, y1, x2, y2": _from_corners,
    "centre x, centre y, width, height": _from_centre,
}

# To what images may have been resized by a number S, and the unit (N, 2) of which S makes the sides that they then had:
# S / unit is the factor by which they were resized in x and y.
SCALES: dict[str, Callable[[Array], Array]] = {
    "in an image {:.3g} times as large": np.ones_like,
    "in an image whose shorter side was resized to about {:.0f}": lambda size: np.sort(size)[:, [0, 0]],
    "in an image whose longer side was resized to about {:.0f}": lambda size: np.sort(size)[:, [1, 1]],
    "in an image resized to about {0:.0f}x{0:.0f}": lambda size: size,
}


def _layout(sample: Sample) -> list[str]:
    """Return a line if the boxes fit the objects in another layout or at another scale."""
    expected = sample.share(sample.met(sample.found))
    reading = _convincing(list(_readings(sample)), expected, sample.objects)
    if reading is None:
        return []
    share, text = reading
    return [
        f"the boxes look like {text}, where x, y, width, height in pixels of the image are expected: so read they meet "
        f"{share:.0%} of {sample.objects} objects, as they are {expected:.0%}"
    ]


def _convincing(readings: Sequence[Reading], expected: float, count: int) -> Reading | None:
    """Return the reading that fits best of `count`, if it fits well, and much better than the one that is expected."""
    best, _ = max(readings)
    if best * count < FITTING or best < max(SHARE, expected + MORE):
        return None
    return next(reading for reading in readings if reading[0] >= NEARLY * best)


def _readings(sample: Sample) -> Iterator[Reading]:
    """Yield for each reading of the boxes the share of objects that they then meet."""
    for layout, read in LAYOUTS.items():
        boxes = read(sample.found)
        yield sample.share(sample.met(boxes)), f"{layout} in pixels"
        yield sample.share(sample.met(boxes * np.tile(sample.size, 2))), f"{layout} normalised to 0..1"
    for layout, read in LAYOUTS.items():
        boxes = read(sample.found)
        for scale, unit_of in SCALES.items():
            unit = unit_of(sample.size)
            side = _likely_side(sample, boxes, unit)
            if side is not None:
                rescaled = boxes * np.tile(unit / side, 2)
                yield sample.share(sample.met(rescaled)), f"{layout} {scale.format(side)}"


def _likely_side(sample: Sample, boxes: Array, unit: Array) -> float | None:
    """Return the S that most pairs agree on if images were resized to S x unit; None where no pair has one.

    Each pair gives the S at which its boxes have equal areas; that of boxes which then lie on each other counts.
    """
    areas = np.clip(boxes[:, 2:], 0, None).prod(axis=1)
    usable = areas > 0
    ratio = np.ones_like(areas)
    ratio[usable] = np.sqrt(areas[usable] / (sample.truth[usable, 2:] / unit[usable]).prod(axis=1))
    usable &= sample.met(boxes * np.tile(unit / ratio[:, None], 2))
    if not usable.any():
        return None
    logs = np.log(ratio[usable])
    bins = np.round(logs / 0.05).astype(int)
    values, counts = np.unique(bins, return_counts=True)
    return float(np.exp(np.median(logs[np.abs(bins - values[counts.argmax()]) <= 1])))


def _labels(sample: Sample, ids: Sequence[int]) -> list[str]:
    """Return a line if the categories fit, of boxes that meet an object, once they are read in another way."""
    pairs = sample.met(sample.found)
    truth, found = sample.truth_category[pairs], sample.found_category[pairs]
    if not len(truth):
        return []
    ordered = sorted(ids)
    read_as: dict[str, Mapping[Any, Any]] = {
        "off by one, each too low by 1": {id - 1: id for id in ordered},
        "off by one, each too high by 1": {id + 1: id for id in ordered},
        "off by one, each that of the category before": dict(pairwise(ordered)),
        "off by one, each that of the category after": {after: before for before, after in pairwise(ordered)},
        "like positions in the list of categories, from 1 on": dict(enumerate(ordered, start=1)),
        "like positions in the list of categories, from 0 on": dict(enumerate(ordered)),
    }
    expected = float((truth == found).mean())
    readings = []
    for text, reading in read_as.items():
        right = truth == np.array([reading.get(id, -1) for id in found.tolist()])
        # One class alone may have been taken for its neighbour by the model itself.
        readings.append((float(right.mean()) if len(np.unique(truth[right])) > 1 else 0.0, text))
    convincing = _convincing(readings, expected, len(truth))
    if convincing is None:
        return []
    share, text = convincing
    return [
        f"the category ids look {text}: so read {share:.0%} of {len(truth)} boxes on objects have the right one, as "
        f"they are {expected:.0%}"
    ]
