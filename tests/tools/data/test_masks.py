"""Masks as pycocotools has them, in every form that COCO's files know."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

import vertebra
from vertebra.tools.data.coco import read_coco, with_masks
from vertebra.tools.data.cutouts import Cutouts
from vertebra.tools.data.masks import compact, decode, encode, read_segmentation, rle_of


def assert_cut_out(found: Cutouts, expected: np.ndarray) -> None:
    """One mask, in the smallest window that holds it."""
    assert np.array_equal(found.dense(), expected[None])
    rows, columns = np.nonzero(expected)
    if len(rows):
        assert found.corners == ((rows.min(), columns.min()),)
        assert found.parts[0].shape == (rows.max() - rows.min() + 1, columns.max() - columns.min() + 1)


SQUARE = [[2.0, 1.0, 6.0, 1.0, 6.0, 4.0, 2.0, 4.0]]


@pytest.mark.parametrize("split", ["train2017", "val2017"])
def test_equals_pycocotools_on_every_annotation_of_coco(real_data: Path, split: str) -> None:
    """Polygons of one and of several parts, and the crowds' uncompressed RLE."""
    coco = COCO(str(real_data / "coco_mini" / "annotations" / f"instances_{split}.json"))
    for annotation in coco.dataset["annotations"]:
        size = coco.imgs[annotation["image_id"]]["height"], coco.imgs[annotation["image_id"]]["width"]
        segmentation = read_segmentation(annotation, *size)
        assert segmentation is not None
        expected = coco.annToMask(annotation)
        assert np.array_equal(decode([segmentation], *size)[0], expected)
        assert_cut_out(compact([segmentation], *size), expected)
        assert rle_of(segmentation, *size) == coco.annToRLE(annotation)


def test_equals_pycocotools_on_compressed_rle(real_data: Path) -> None:
    path = real_data / "nuclei" / "annotations" / "val.json"
    coco = COCO(str(path))
    data, without = with_masks(read_coco(path, real_data / "nuclei" / "val"))
    assert not without
    for image in data.images[:20]:
        expected = [coco.annToMask(a) for a in coco.imgToAnns[image.id]]
        assert np.array_equal(image.masks().dense(), expected)


def test_forms_of_the_same_mask(rng: np.random.Generator) -> None:
    """One mask as compressed RLE of str and bytes, and as the counts of its runs, down the columns."""
    for _ in range(50):
        height, width = (int(side) for side in rng.integers(1, 40, 2))
        mask = (rng.random((height, width)) < rng.random()).astype(np.uint8)
        rle = coco_mask.encode(np.asfortranarray(mask))
        flat = [0, *mask.flatten("F").tolist(), -1]
        edges = [i for i in range(1, len(flat)) if flat[i] != flat[i - 1]]
        runs = np.diff([1, *edges]).tolist()
        for counts in (rle["counts"], rle["counts"].decode(), runs):
            read = read_segmentation({"segmentation": {"size": [height, width], "counts": counts}}, height, width)
            assert read is not None
            assert np.array_equal(decode([read], height, width), mask[None])
            assert_cut_out(compact([read], height, width), mask)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_large_runs() -> None:
    """Numbers of several characters, and differences below zero."""
    mask = np.zeros((900, 1100), np.uint8, order="F")
    mask[100:800, 3:900] = 1
    mask[5, 1000] = 1
    rle = {"size": [900, 1100], "counts": coco_mask.encode(mask)["counts"]}
    assert read_segmentation({"segmentation": rle}, 900, 1100) == rle


@pytest.mark.parametrize("found", [None, [], [[]], [[1, 1, 4, 4]], [[1, 1, 4, 4], [2, 2]]])
def test_no_usable_segmentation(found: object) -> None:
    assert read_segmentation({"id": 1, "segmentation": found}, 8, 9) is None
    assert read_segmentation({"id": 1}, 8, 9) is None


def test_parts_of_less_than_three_points_are_left_out() -> None:
    segmentation = read_segmentation({"segmentation": [[1, 1, 4, 4], *SQUARE]}, 8, 9)
    expected = np.zeros((8, 9), np.uint8)
    expected[1:4, 2:6] = 1
    assert segmentation is not None
    assert np.array_equal(decode([segmentation], 8, 9), expected[None])


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ([1, 1, 4, 1, 4, 4], "neither a list of polygons nor an RLE"),
        ([[1, 1, 4, 1, 4, 4, 2]], "a polygon that is not a list of finite x, y"),
        ([[1, 1, 4, 1, 4, float("nan")]], "a polygon that is not a list of finite x, y"),
        ([["a"] * 6], "neither a list of polygons nor an RLE"),
        ({"counts": [72]}, "neither a list of polygons nor an RLE"),
        ({"size": [9, 8], "counts": [72]}, r"an image of \(height, width\) \[9, 8\], its image has \[8, 9\]"),
        ({"size": [8, 9], "counts": [70]}, "its runs do not add up to the 72 pixels"),
        ({"size": [8, 9], "counts": [80, -8]}, "its runs do not add up to the 72 pixels"),
        ({"size": [8, 9], "counts": "zzzz"}, "no compressed RLE"),
        ({"size": [8, 9], "counts": "34"}, "its runs do not add up to the 72 pixels"),
        ({"size": [8, 9], "counts": ""}, "no compressed RLE"),
    ],
)
def test_malformed_segmentations_are_named(found: Any, message: str) -> None:
    with pytest.raises(vertebra.InputError, match=rf"the segmentation of annotation 5 .*{message}"):
        read_segmentation({"id": 5, "segmentation": found}, 8, 9)


def test_no_masks() -> None:
    assert decode([], 8, 9).shape == (0, 8, 9)
    assert encode(torch.zeros(0, 1, 8, 9)) == []
    assert compact([], 8, 9).dense().shape == (0, 8, 9)


def test_a_models_masks_dense_or_rle(rng: np.random.Generator) -> None:
    masks = rng.random((5, 1, 13, 7)).astype(np.float32)
    expected = [coco_mask.encode(np.asfortranarray(mask > 0.5, np.uint8)) for mask in masks[:, 0]]
    for given in (torch.from_numpy(masks), expected):
        found = encode(given)
        assert json.loads(json.dumps(found)) == [{**rle, "counts": rle["counts"].decode()} for rle in expected]


@pytest.mark.parametrize("far", [1e308, 1e7, -500.25])
def test_a_point_far_outside_of_the_image(far: float) -> None:
    """Where pycocotools would walk, pixel by pixel, or end the process."""
    annotation = {"id": 3, "segmentation": [[0, 0, far, 5, 7, 9]]}
    with pytest.raises(vertebra.InputError, match="annotation 3 has a point further from its image of 40x30 than"):
        read_segmentation(annotation, 30, 40)
    assert read_segmentation({"segmentation": [[0, 0, 79, 5, 7, 9]]}, 30, 40) is not None
