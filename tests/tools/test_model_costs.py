"""Detectors find as many objects as they are asked for, and learn from as many; what is counted is as published."""

from typing import Any

import pytest
import torch

from vertebra.backbones import InputError
from vertebra.tools.model_costs import (
    CANDIDATES,
    STEPS,
    Work,
    build,
    calibrate_,
    cost,
    make_batch,
    read_count,
    read_size,
)
from vertebra.tools.timing import in_fresh_process


def work(**changes: Any) -> Work:
    return Work(**{"head": "faster_rcnn", "backbone": "resnet18", "size": (64, 96), "classes": 5, **changes})


@pytest.mark.parametrize("objects", [1, 20])
def test_objects_are_found_and_learnt_from(objects: int) -> None:
    given = work(objects=objects, batch_size=2)
    batch = make_batch(given)
    images, targets = [image for image, _ in batch], [target for _, target in batch]
    assert [(len(target["boxes"]), len(target["labels"])) for target in targets] == [(objects, objects)] * 2
    for target in targets:
        x0, y0, x1, y1 = target["boxes"].unbind(1)
        assert bool(((x0 >= 0) & (x0 < x1) & (x1 <= 96) & (y0 >= 0) & (y0 < y1) & (y1 <= 64)).all())
        assert set(target["labels"].tolist()) <= {1, 2, 3, 4}
    model = build(given)
    calibrate_(model, images)
    scores: list[torch.Tensor] = []
    model.roi_heads.box_predictor.cls_score.register_forward_hook(lambda _, __, out: scores.append(out))
    with torch.no_grad():
        model(images)
    likely = scores[0].softmax(dim=-1)[:, 1:] > model.roi_heads.settings.score_threshold
    assert int(likely.sum()) == 2 * CANDIDATES * objects
    found = STEPS["inference"](model, images, targets)()
    assert found is not None
    assert [len(one["boxes"]) for one in found] == [objects] * 2


def test_masks_touch_the_sides_of_their_boxes() -> None:
    ((_, target),) = make_batch(work(head="mask_rcnn", size=(200, 300)))
    for box, mask in zip(target["boxes"], target["masks"].dense(), strict=True):
        x, y = mask.any(0).nonzero(), mask.any(1).nonzero()
        around = torch.stack((x.min(), y.min(), x.max() + 1, y.max() + 1))
        assert float((around - box).abs().max()) < 2


@pytest.mark.parametrize("head", ["deeplabv3", "classifier"])
def test_heads_without_objects(head: str) -> None:
    given = work(head=head, batch_size=2)
    batch = make_batch(given)
    images, targets = [image for image, _ in batch], [target for _, target in batch]
    model = build(given)
    calibrate_(model, images)
    before = model.backbone.get_parameter("conv1.weight").clone()
    STEPS["train"](model, images, targets)()
    assert (model.backbone.get_parameter("conv1.weight") - before).abs().max() < 1e-3


def test_costs_as_published() -> None:
    """Torchvision's model card of resnet18: 1.814 billion multiply-adds at 224, and 11,689,512 parameters."""
    found = in_fresh_process(cost, work(head="classifier", size=(224, 224), classes=1000), "inference", "cpu", 1, 2)
    assert found.flop / 2 == pytest.approx(1.814e9, rel=1e-3)
    assert found.parameters == 11_689_512
    assert len(found.seconds) >= 2
    assert min(found.seconds) <= found.median <= max(found.seconds)
    assert found.memory is None or 4 * 11_689_512 < found.memory < 500e6


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objects": 0}, r"'objects': 0, .* each must be at least 1"),
        ({"size": (0, 5)}, "each must be at least 1"),
        ({"head": "faster_rcn"}, "Did you mean 'faster_rcnn'"),
    ],
)
def test_work_that_cannot_be(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        work(**changes)


def test_reading() -> None:
    assert read_size("480x640") == (480, 640)
    assert read_count("12") == 12
    for read, text in (
        (read_size, "480"),
        (read_size, "480x"),
        (read_count, "0"),
        (read_count, "-1"),
        (read_count, ""),
    ):
        with pytest.raises(InputError, match=repr(text)):
            read(text)
