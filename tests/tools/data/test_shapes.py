"""The generated data set: deterministic, in COCO's format, with exact masks."""

import json
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO

import vertebra
from vertebra.tools.data.shapes import LEAST_VISIBLE, Shapes, cached_shapes, draw_image, write_shapes

SETTINGS = Shapes(train=6, val=3, size=64, objects=5, seed=3)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_same_seed_gives_the_same_files(tmp_path: Path) -> None:
    one, other = (files(write_shapes(SETTINGS, tmp_path / name)) for name in "ab")
    assert one == other
    assert len(one) == 6 + 3 + 2
    different = files(write_shapes(Shapes(train=6, val=3, size=64, objects=5, seed=4), tmp_path / "c"))
    assert different["train/000000.png"] != one["train/000000.png"]


def test_masks_boxes_and_areas_agree(tmp_path: Path) -> None:
    folder = write_shapes(SETTINGS, tmp_path / "shapes")
    coco = COCO(str(folder / "annotations" / "train.json"))
    assert {c["name"] for c in coco.dataset["categories"]} == {"circle", "square", "triangle", "star"}
    assert coco.dataset["annotations"]
    for annotation in coco.dataset["annotations"]:
        mask = coco.annToMask(annotation)
        ys, xs = np.nonzero(mask)
        x, y, width, height = annotation["bbox"]
        assert (x, y, x + width, y + height) == (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)
        assert annotation["area"] == mask.sum()


def test_objects_overlap_but_stay_visible() -> None:
    hidden = 0
    for i in range(30):
        _, objects = draw_image(Shapes(size=96), np.random.default_rng(i))
        masks = np.stack([mask for _, mask in objects])
        assert masks.sum(axis=0).max() == 1  # each pixel belongs to the foremost object alone
        boxes = [(np.nonzero(m)[1].min(), np.nonzero(m)[1].max()) for m in masks]
        hidden += any(a[0] < b[0] < a[1] for a in boxes for b in boxes)
        assert all(mask.sum() > 0 for mask in masks)
    assert hidden > 5
    assert 0 < LEAST_VISIBLE < 1


def test_a_shape_of_each_kind_has_its_area() -> None:
    """Area over the square of the radius, by hand: circle pi, square 2, triangle 3 sqrt(3) / 4, star below."""
    star = 10 / 2 * 0.45 * np.sin(np.pi / 5)  # ten triangles with sides 1 and 0.45 and the angle pi / 5 between
    expected = {1: np.pi, 3: 2.0, 4: 3 * np.sqrt(3) / 4, 7: star}
    seen = set()
    for i in range(200):
        _, objects = draw_image(Shapes(size=400, objects=1), np.random.default_rng(i))
        ((category, mask),) = objects
        if category == 1:  # only for the circle does the box say the radius, whatever the angle
            radius = (np.nonzero(mask)[0].max() - np.nonzero(mask)[0].min() + 1) / 2
            assert mask.sum() / radius**2 == pytest.approx(np.pi, rel=0.08)
        seen.add(category)
    assert seen == set(expected)


def test_cache_is_written_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = cached_shapes(SETTINGS)
    assert folder.parent == tmp_path / "vertebra"
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert cached_shapes(SETTINGS) == folder
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    assert cached_shapes(Shapes(train=6, val=3, size=64, objects=5, seed=4)) != folder


def test_the_folder_appears_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json, "dumps", lambda document: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_shapes(SETTINGS, tmp_path / "shapes")
    assert list(tmp_path.iterdir()) == []


def test_bad_settings(tmp_path: Path) -> None:
    with pytest.raises(vertebra.InputError, match="at least one image"):
        write_shapes(Shapes(train=0), tmp_path / "shapes")
    with pytest.raises(vertebra.InputError, match="exists already"):
        write_shapes(SETTINGS, tmp_path)
