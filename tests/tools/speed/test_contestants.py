"""All contestants of a step do the same work."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from pycocotools import mask as coco_mask
from torch import nn

from vertebra.tools.speed.case import Case, given
from vertebra.tools.speed.contestants import contestant, entries, reference_of
from vertebra.tools.speed.steps import Contestant, inference, rle

MakeCase = Callable[..., Case]


def contestants(case: Case, step: str) -> list[Contestant]:
    reference = reference_of(case, step, given(case, step)[0])  # type: ignore[arg-type]
    return [contestant(case, step, entry, reference) for entry in entries(case, step)]


def learning(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)


@pytest.mark.parametrize(
    ("head", "backbone"),
    [("mask_rcnn", "resnet18"), pytest.param("mask_rcnn_v2", "resnet50", marks=pytest.mark.slow)],
)
def test_all_find_the_same(tiny: MakeCase, head: str, backbone: str) -> None:
    case = tiny(head=head, backbone=backbone, batch_size=1)
    models = contestants(case, "rle")
    assert len(models) == 4
    (images,) = given(case, "rle")
    expected: list[Any] = rle(models[0], images)()  # type: ignore[arg-type]
    for model in models[1:]:
        for one, found in zip(expected, rle(model, images)(), strict=True):  # type: ignore[arg-type]
            assert len(found["boxes"]) == 3
            assert torch.equal(found["labels"], one["labels"])
            torch.testing.assert_close(found["boxes"], one["boxes"], rtol=1e-3, atol=1e-2)
            same = coco_mask.decode(found["masks"]) == coco_mask.decode(one["masks"])
            assert same.mean() > 0.999  # but for pixels that lie at the threshold


def test_all_segment_and_learn_the_same(tiny: MakeCase) -> None:
    """Of images that no stride divides. In training without dropout, which draws for each model anew."""
    case = tiny(head="deeplabv3", backbone="resnet50", size=(40, 72), steps=("inference", "train"))
    (images,) = given(case, "inference")
    first, *others = [inference(model, images)() for model in contestants(case, "inference")]  # type: ignore[arg-type]
    assert len(others) == 3
    assert len(first[0]["semantic"].unique()) > 2
    for found in others:
        for one, expected in zip(found, first, strict=True):
            assert (one["semantic"].shape, one["semantic"].dtype) == ((40, 72), torch.uint8)
            assert (one["semantic"] == expected["semantic"]).float().mean() > 0.99

    losses = []
    for learner in contestants(case, "train"):
        model = learner.model.train()
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.eval()
        losses.append(torch.stack(list(model(*given(case, "train")).values())).detach())
    assert losses[0].shape == (2,)  # of the classifier and of the auxiliary one
    for found_losses in losses[1:]:
        torch.testing.assert_close(found_losses, losses[0], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("stages", [0, 2])
def test_frozen_stages_are_the_same_for_all(tiny: MakeCase, stages: int) -> None:
    """As torchvision's own builder counts them."""
    from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
    from torchvision.ops import FrozenBatchNorm2d

    case = tiny(head="faster_rcnn", size=(32, 32), batch_size=1, steps=("train",), frozen_stages=stages)
    expected = resnet_fpn_backbone(
        backbone_name="resnet18", weights=None, norm_layer=FrozenBatchNorm2d, trainable_layers=5 - stages
    )
    for model in contestants(case, "train"):
        assert learning(model.model.get_submodule("backbone")) == learning(expected)


@pytest.mark.parametrize(
    ("compiled", "expected"),
    [
        (False, ["torchvision as it ships", "torchvision, equal settings, bfloat16", "vertebra, bfloat16"]),
        (
            True,
            [
                "torchvision as it ships",
                "torchvision, equal settings, bfloat16, compiled",
                "vertebra, bfloat16, compiled",
            ],
        ),
    ],
)
def test_names_say_how_they_run(tiny: MakeCase, compiled: bool, expected: list[str]) -> None:
    case = tiny(dtypes=("bfloat16",), compiled=compiled, steps=("train", "rle"))
    assert [entry.name for entry in entries(case, "train")] == expected
    last = entries(case, "rle")[-1].name
    assert last == "vertebra.optimize, bfloat16" + (", compiled" if compiled else "")


def test_rows_are_those_that_were_asked_for(tiny: MakeCase) -> None:
    case = tiny(libraries=(), dtypes=("float32", "bfloat16"), steps=("train",), checkpointing=True)
    assert [entry.name for entry in entries(case, "train")] == [
        "vertebra, float32",
        "vertebra, bfloat16",
        "vertebra, fast convolutions, float32",
        "vertebra, checkpointing, float32",
        "vertebra, checkpointing, bfloat16",
    ]
