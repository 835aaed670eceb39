"""A generated data set in COCO's format: circles, squares, triangles and stars that overlap on textured backgrounds."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from ...backbones import InputError
from .cache import cache_folder

Array = np.ndarray[Any, np.dtype[Any]]

# Raise it when the pictures that a seed gives change: cached sets of the old kind are then left alone.
VERSION = 1

# An object that later ones cover further than this would teach the detector to guess.
LEAST_VISIBLE = 0.4


@dataclass(frozen=True)
class Shapes:
    """Settings of the generated set: images in each split, their side in pixels, most objects in one, and the seed."""

    train: int = 600
    val: int = 100
    size: int = 160
    objects: int = 5
    seed: int = 0


def _regular(corners: int, inner: float = 1.0) -> Callable[[], Array]:
    """Return the unit polygon with that many outer corners; below 1, `inner` pulls in a corner between each two."""

    def corners_of() -> Array:
        count = corners if inner == 1.0 else 2 * corners
        radius = np.where(np.arange(count) % 2, inner, 1.0) if inner != 1.0 else np.ones(count)
        angle = np.arange(count) * 2 * np.pi / count
        return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)

    return corners_of


# Category ids are sparse on purpose, as COCO's are.
SHAPES: dict[str, tuple[int, Callable[[], Array]]] = {
    "circle": (1, _regular(64)),
    "square": (3, _regular(4)),
    "triangle": (4, _regular(3)),
    "star": (7, _regular(5, inner=0.45)),
}


def cached_shapes(settings: Shapes) -> Path:
    """Return the folder of the set in the cache, which is written when it is not there."""
    key = sha256(json.dumps([VERSION, asdict(settings)], sort_keys=True).encode()).hexdigest()[:12]
    folder = cache_folder() / f"shapes-{key}"
    return folder if folder.is_dir() else write_shapes(settings, folder)


def write_shapes(settings: Shapes, folder: Path) -> Path:
    """Write the set: `train/`, `val/` (PNG) and `annotations/train.json`, `val.json`, with exact masks as RLE.

    The folder appears whole or not at all.
    """
    if settings.train < 1 or settings.val < 1 or settings.objects < 1 or settings.size < 32:
        raise InputError(f"{settings}: at least one image in each split, one object, and 32 pixels are needed")
    if folder.exists():
        raise InputError(f"{folder} exists already; choose another folder or remove it")
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
    try:
        (scratch / "annotations").mkdir()
        for number, (split, count) in enumerate((("train", settings.train), ("val", settings.val))):
            document = _write_split(scratch / split, settings, number, count)
            (scratch / "annotations" / f"{split}.json").write_text(json.dumps(document))
        scratch.chmod(0o755)
        try:
            scratch.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process wrote the same set first
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return folder


def _write_split(folder: Path, settings: Shapes, split: int, count: int) -> dict[str, Any]:
    import cv2

    folder.mkdir()
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for i in range(count):
        pixels, objects = draw_image(settings, np.random.default_rng([settings.seed, split, i]))
        name = f"{i:06d}.png"
        if not cv2.imwrite(str(folder / name), cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)):
            raise InputError(f"cannot write {folder / name}; is the disk full?")
        images.append({"id": i + 1, "file_name": name, "height": settings.size, "width": settings.size})
        for category, mask in objects:
            annotations.append({"id": len(annotations) + 1, "image_id": i + 1, **_annotation(category, mask)})
    categories = [{"id": id, "name": name, "supercategory": "shape"} for name, (id, _) in SHAPES.items()]
    return {"images": images, "annotations": annotations, "categories": categories}


def _annotation(category: int, mask: Array) -> dict[str, Any]:
    from pycocotools import mask as coco_mask

    rle = coco_mask.encode(np.asfortranarray(mask, np.uint8))
    return {
        "category_id": category,
        "bbox": [float(v) for v in coco_mask.toBbox(rle)],
        "area": float(coco_mask.area(rle)),
        "iscrowd": 0,
        "segmentation": {"size": rle["size"], "counts": rle["counts"].decode()},
    }


def draw_image(settings: Shapes, rng: np.random.Generator) -> tuple[Array, list[tuple[int, Array]]]:
    """Return pixels (size, size, 3), uint8 RGB, and the objects in them: category id and mask of what is visible."""
    size = settings.size
    canvas = _texture(size, rng)
    masks: list[Array] = []
    areas: list[int] = []
    ids: list[int] = []
    for _ in range(int(rng.integers(1, settings.objects + 1))):
        id, corners = list(SHAPES.values())[rng.integers(len(SHAPES))]
        mask = _silhouette(corners(), size, rng)
        paint = _texture(size, rng)
        remaining = [m & ~mask for m in masks]
        if any(r.sum() < LEAST_VISIBLE * area for r, area in zip(remaining, areas, strict=True)):
            continue
        masks = [*remaining, mask]
        areas.append(int(mask.sum()))
        ids.append(id)
        canvas = np.where(mask[..., None], paint, canvas)
    return canvas, list(zip(ids, masks, strict=True))


def _silhouette(corners: Array, size: int, rng: np.random.Generator) -> Array:
    """Return the mask (size, size) of a polygon at a random place, turned and scaled at random, inside the image."""
    import cv2

    radius = rng.uniform(0.07, 0.25) * size
    angle = rng.uniform(0, 2 * np.pi)
    centre = rng.uniform(radius, size - radius, 2)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    mask = np.zeros((size, size), np.uint8)
    cv2.fillPoly(mask, [np.round(corners @ turn.T * radius + centre).astype(np.int32)], 1)
    return mask.astype(bool)


def _texture(size: int, rng: np.random.Generator) -> Array:
    """Return (size, size, 3) uint8: a random colour with stripes of a random direction, patches and grain."""
    import cv2

    colour = rng.uniform(40, 215, 3)
    y, x = np.mgrid[:size, :size] / size
    angle, waves, phase = rng.uniform(0, np.pi), rng.uniform(2, 12), rng.uniform(0, 2 * np.pi)
    stripes = np.sin(2 * np.pi * waves * (x * np.cos(angle) + y * np.sin(angle)) + phase)
    patches = cv2.resize(rng.normal(size=(6, 6)), (size, size), interpolation=cv2.INTER_LINEAR)
    grain = rng.normal(size=(size, size))
    pattern = rng.uniform(0, 18) * stripes + rng.uniform(0, 14) * patches + 4 * grain
    pixels: Array = np.clip(colour + pattern[..., None], 0, 255).astype(np.uint8)
    return pixels
