"""A run as a function: every form of an image, lists of them, what is chosen of what it finds, and pictures of it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask

import vertebra
from vertebra.tools.predictor import best, refuse


def test_best_keeps_everything_of_a_detection_together() -> None:
    found = {
        "boxes": torch.arange(12.0).reshape(3, 4),
        "labels": torch.tensor([1, 2, 3]),
        "scores": torch.tensor([0.9, 0.5, 0.4]),
        "masks": ["first", "second", "third"],
        "names": ["a", "b", "c"],
        "size": (30, 20),
    }
    kept = best(found, 0.5, None)
    assert kept["boxes"].tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert kept["labels"].tolist() == [1, 2]
    assert kept["masks"] == ["first", "second"]
    assert kept["names"] == ["a", "b"]
    assert kept["size"] == (30, 20)
    assert best(found, 0, 1)["names"] == ["a"]
    assert best(found, 0.45, 5)["names"] == ["a", "b"]
    nothing = best(found, 0.95, 2)
    assert nothing["boxes"].shape == (0, 4)
    assert nothing["masks"] == nothing["names"] == []


@pytest.mark.parametrize(
    ("kind", "score", "top", "message"),
    [
        ("semantic", 0.3, None, "score=0.3 is for detections; a segmenter"),
        ("semantic", None, 3, "top=3 ranks the classes"),
        ("label", 0.0, None, "score=0 is for detections; a classifier"),
        ("label", None, 0, "top=0; it is at least 1"),
        ("boxes", 1.5, None, "score=1.5; it is from 0 to 1"),
        ("boxes", -0.1, None, "score=-0.1; it is from 0 to 1"),
        ("boxes", 0.5, -1, "top=-1; it is at least 1"),
    ],
)
def test_what_is_not_for_a_kind_of_model(kind: str, score: float | None, top: int | None, message: str) -> None:
    with pytest.raises(vertebra.InputError, match=message):
        refuse(kind, {"score": score, "top": top})


def test_what_is_for_a_kind_of_model() -> None:
    for kind, score, top in (("boxes", 0.0, 1), ("boxes", 1.0, None), ("label", None, 5), ("semantic", None, None)):
        refuse(kind, {"score": score, "top": top})


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Tell whether the same was found, up to the last digits."""
    assert one["names"] == other["names"]
    assert one["size"] == other["size"]
    return torch.allclose(one["boxes"], other["boxes"], atol=1e-3) and torch.allclose(
        one["scores"], other["scores"], atol=1e-5
    )


def test_images_in_any_form_and_lists_of_them(mask_run: Path, shapes: Path) -> None:
    predictor = vertebra.Predictor(mask_run)
    path = shapes / "val" / "000000.png"
    with Image.open(path) as opened:
        image = opened.convert("RGB")
    pixels = np.array(image)
    alone = predictor(path)
    assert len(alone["scores"]) > 5
    assert (alone["scores"].diff() <= 0).all()
    assert alone["size"] == (64, 64)
    for form in (str(path), pixels, image, torch.from_numpy(pixels).permute(2, 0, 1), pixels / 255):
        assert same(predictor(form), alone)
    # Another size between two equal ones, and the list's order is kept.
    small = pixels[:48]
    together = predictor([path, small, pixels])
    assert same(together[0], alone)
    assert same(together[1], predictor(small))
    assert together[1]["size"] == (48, 64)
    assert same(together[2], alone)
    assert isinstance(predictor((path,)), list)


def test_what_is_chosen(mask_run: Path, shapes: Path) -> None:
    predictor = vertebra.Predictor(mask_run)
    path = shapes / "val" / "000001.png"
    everything = predictor(path)["scores"].tolist()
    middle = everything[len(everything) // 2]
    assert predictor(path, score=middle)["scores"].tolist() == [score for score in everything if score >= middle]
    assert predictor(path, top=3)["scores"].tolist() == everything[:3]
    assert [len(found["scores"]) for found in predictor([path, path], top=2)] == [2, 2]


def test_masks_and_pictures(mask_run: Path, shapes: Path) -> None:
    predictor = vertebra.Predictor(mask_run)
    path = shapes / "val" / "000000.png"
    found = predictor(path, top=4)
    masks = predictor.masks(found)
    assert masks.dtype == bool
    assert masks.shape == (4, 64, 64)
    assert masks.sum(axis=(1, 2)).tolist() == [int(coco_mask.area(rle)) for rle in found["masks"]]
    assert predictor.masks(predictor(path, score=1.0)).shape == (0, 64, 64)
    picture = predictor.draw(path, found)
    assert picture.shape == (360, 360, 3)
    assert picture.dtype == np.uint8
    plain = predictor.draw(path, predictor(path, score=1.0))
    assert (picture != plain).any()
    with Image.open(path) as image:
        large = np.array(image.convert("RGB").resize((360, 360), Image.Resampling.BILINEAR), int)
    assert np.abs(large - plain).max() <= 3
    with pytest.raises(vertebra.InputError, match="an image of 64x48 came with what was found in one of 64x64"):
        predictor.draw(np.zeros((48, 64, 3), np.uint8), found)
    with pytest.raises(vertebra.InputError, match="finds no masks"):
        predictor.masks({"boxes": found["boxes"]})


def test_an_empty_list_and_what_a_model_refuses(mask_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    predictor = vertebra.Predictor(mask_run)
    with pytest.raises(vertebra.InputError, match="an empty list of images"):
        predictor([])
    images = [np.zeros((40, 30, 3), np.uint8)] * 2

    def no_room(images: object) -> None:
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate")

    monkeypatch.setattr(predictor, "model", no_room)
    monkeypatch.setattr(vertebra.Predictor, "kind", "boxes")
    with pytest.raises(vertebra.InputError, match="no memory for 2 images of 30x40 at once; give fewer"):
        predictor(images)

    def faulty(images: object) -> None:
        raise RuntimeError("something else")

    monkeypatch.setattr(predictor, "model", faulty)
    with pytest.raises(RuntimeError, match="something else"):
        predictor(images)
