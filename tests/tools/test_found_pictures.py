"""Pictures of what was found: the colour of a label is the same in each, whatever else is there."""

from typing import Any

import torch

from vertebra.tools.data.sets import Category
from vertebra.tools.draw import colour
from vertebra.tools.found_pictures import PICTURES, class_picture, detections_picture, semantic_picture

CATEGORIES = [Category(40, "cat"), Category(7, "dog"), Category(9, "cow")]
GREY = torch.full((3, 400, 500), 128, dtype=torch.uint8)


def detections(*found: tuple[list[float], int]) -> dict[str, Any]:
    return {
        "boxes": torch.tensor([box for box, _ in found]).reshape(-1, 4),
        "labels": torch.tensor([label for _, label in found], dtype=torch.int64),
        "scores": torch.full((len(found),), 0.5),
    }


def test_boxes_have_the_colour_of_their_label_in_any_company() -> None:
    dog = ([100.0, 200.0, 300.0, 350.0], 2)
    for found in (detections(dog), detections(([10.0, 10.0, 80.0, 80.0], 1), dog, ([400.0, 20.0, 450.0, 90.0], 3))):
        picture = detections_picture(GREY, found, CATEGORIES)
        assert picture.shape == GREY.shape
        assert tuple(picture[:, 349, 200].tolist()) == colour(2)
        assert tuple(picture[:, 300, 200].tolist()) == (128, 128, 128)
    assert torch.equal(detections_picture(GREY, detections(), CATEGORIES), GREY)


def test_small_images_are_enlarged_with_their_boxes() -> None:
    picture = detections_picture(GREY[:, :40, :50], detections(([10.0, 20.0, 30.0, 35.0], 3)), CATEGORIES)
    assert picture.shape == (3, 360, 450)
    assert tuple(picture[:, 35 * 9 - 1, 20 * 9].tolist()) == colour(3)


def test_labels_of_pixels() -> None:
    labels = torch.zeros(400, 500, dtype=torch.uint8)
    labels[:, 250:] = 2
    picture = semantic_picture(GREY, {"semantic": labels}, CATEGORIES)
    assert picture.shape[1] > 400  # the legend
    for x, label in ((100, 0), (400, 2)):
        expected = torch.tensor([(128 + part) / 2 for part in colour(label)])
        assert (picture[:, 200, x] - expected).abs().max() <= 0.5


def test_the_name_of_a_class_stands_above_the_image() -> None:
    found = {"label": torch.tensor(1), "scores": torch.tensor([0.1, 0.7, 0.2])}
    picture = class_picture(GREY, found, CATEGORIES)
    strip = picture.shape[1] - 400
    assert torch.equal(picture[:, strip:], GREY)
    assert (picture[:, :strip] == 0).any()  # ink on white
    assert (picture[:, 0] == 255).all()
    other = class_picture(GREY, {**found, "label": torch.tensor(0)}, CATEGORIES)
    assert not torch.equal(picture[:, :strip], other[:, :strip])


def test_every_kind_of_model_has_pictures() -> None:
    from vertebra.tools.findings import FINDINGS

    assert PICTURES.keys() == FINDINGS.keys()
