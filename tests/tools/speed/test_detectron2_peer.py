"""detectron2's model finds with torchvision's weights what torchvision's finds, and learns with the same layers."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from vertebra.tools.speed.case import Case, given
from vertebra.tools.speed.contestants import contestant, entries, reference_of
from vertebra.tools.speed.steps import Contestant, inference, train

pytest.importorskip("detectron2", reason="detectron2 is not installed; it is no dependency")

MakeCase = Callable[..., Case]


def pair(case: Case, step: str) -> list[Contestant]:
    reference = reference_of(case, step, given(case, step)[0])  # type: ignore[arg-type]
    models = [contestant(case, step, entry, reference) for entry in entries(case, step)]
    named = {model.name: model for model in models}
    return [named["torchvision as it ships"], named["detectron2 as it ships"]]


@pytest.mark.parametrize("backbone", ["resnet18", "resnext50_32x4d"])
def test_it_finds_the_same(tiny: MakeCase, backbone: str) -> None:
    case = tiny(backbone=backbone, size=(64, 96), batch_size=1, objects=10, libraries=("torchvision", "detectron2"))
    (images,) = given(case, "inference")
    ((expected,), (found,)) = (inference(model, images)() for model in pair(case, "inference"))  # type: ignore[arg-type]
    assert len(expected["boxes"]) == 10
    assert torch.equal(found["labels"], expected["labels"])
    torch.testing.assert_close(found["scores"], expected["scores"], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(found["boxes"], expected["boxes"], rtol=1e-3, atol=1e-2)
    # It places a mask on the image to a part of a pixel, where torchvision takes whole ones.
    inside, wanted = found["masks"], expected["masks"] > 0.5
    assert float((inside == wanted).float().mean()) > 0.9
    assert bool(wanted.any())


@pytest.mark.parametrize("stages", [0, 2])
def test_the_same_layers_learn(tiny: MakeCase, stages: int) -> None:
    settings: dict[str, Any] = {
        "steps": ("train",),
        "frozen_stages": stages,
        "libraries": ("torchvision", "detectron2"),
    }
    case = tiny(head="faster_rcnn", size=(32, 32), batch_size=1, **settings)
    torchvisions, theirs = pair(case, "train")

    def learning(module: nn.Module) -> int:
        return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)

    # torchvision has deltas of a box for the background too, which nothing learns.
    assert learning(theirs.model) == learning(torchvisions.model) - 4 * (1024 + 1)
    train(theirs, *given(case, "train"))()  # type: ignore[arg-type]
    losses = theirs.model(*given(case, "train"))
    assert len(losses) == 4
    assert all(bool(loss.isfinite()) for loss in losses.values())
