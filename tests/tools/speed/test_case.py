"""What contestants are given, and the numbers by which it is judged."""

from collections.abc import Callable

import torch

from vertebra.tools import peers
from vertebra.tools.speed.case import Case, make_targets

MakeCase = Callable[..., Case]


def test_targets_are_valid(tiny: MakeCase) -> None:
    """Boxes with area inside the image, each with a mask that touches its sides, to the pixel."""
    for target in make_targets(tiny(size=(200, 300))):
        assert len(target["boxes"]) == peers.OBJECTS
        assert bool((target["boxes"] >= 0).all() & (target["boxes"] <= torch.tensor([300, 200, 300, 200])).all())
        assert bool((target["labels"] >= 1).all() & (target["labels"] < 91).all())
        for mask, box in zip(target["masks"], target["boxes"], strict=True):
            x, y = mask.any(0).nonzero(), mask.any(1).nonzero()
            around = torch.stack((x.min(), y.min(), x.max() + 1, y.max() + 1))
            assert float((around - box).abs().max()) < 2


def test_pixels_to_segment_are_of_all_classes_and_some_of_none(tiny: MakeCase) -> None:
    targets = make_targets(tiny(head="deeplabv3", backbone="resnet50", size=(500, 700)))
    for target in targets:
        assert (target["semantic"].shape, target["semantic"].dtype) == ((500, 700), torch.uint8)
        assert target["semantic"].unique().tolist() == [*range(21), 255]
    assert not torch.equal(targets[0]["semantic"], targets[1]["semantic"])


def test_agreement_wants_the_label_and_the_place() -> None:
    """Of four objects one is there, one has another label, one has moved (IoU 0.82), one is missing."""
    boxes = torch.tensor([[0.0, 0, 100, 100], [200, 0, 300, 100], [0, 200, 100, 300], [200, 200, 300, 300]])
    reference = [{"boxes": boxes, "labels": torch.tensor([1, 2, 3, 4])}]
    moved = boxes[:3] + torch.tensor([[1.0, 0, 1, 0], [0, 0, 0, 0], [10, 0, 10, 0]])
    found = [{"boxes": moved, "labels": torch.tensor([1, 9, 3])}]
    measures = peers.peer_of("faster_rcnn").measures
    assert measures["agree"](reference, found) == 0.25
    assert measures["objects"](reference, found) == 3
