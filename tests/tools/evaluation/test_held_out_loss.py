"""The loss on held-out images: means by hand, the same each time, and the same of several processes."""

import json
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import vertebra
from vertebra.tools.data.sets import DataSet
from vertebra.tools.engine.precision import PRECISIONS
from vertebra.tools.engine.processes import ALONE, Processes
from vertebra.tools.evaluation.held_out_loss import held_out_loss
from vertebra.tools.settings import Data, Split
from vertebra.tools.sources import open_split

CPU = torch.device("cpu")


class Counting(nn.Module):
    """Its losses are how many objects an image has, a random number, and whether autocast is on."""

    target_keys = ("boxes", "labels")

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[tuple[int, ...]] = []

    def losses(self, images: list[Tensor], targets: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        assert not self.training
        assert not torch.is_grad_enabled()
        self.sizes += [tuple(image.shape) for image in images]
        (target,) = targets
        assert len(target["labels"]) == len(target["boxes"])
        return {
            "objects": torch.tensor(float(len(target["boxes"]))),
            "drawn": torch.rand(()),
            "autocast": torch.tensor(float(torch.is_autocast_enabled("cpu"))),
        }


@dataclass(frozen=True)
class OneOfTwo(Processes):
    """A process whose `gather` meets the other's values in a list: the main one takes them, the other leaves them."""

    left: Any = None

    def gather(self, value: Any) -> list[Any] | None:
        if self.main:
            return [value, *self.left]
        self.left.append(value)
        return None


@pytest.fixture
def held_out(shapes: Path) -> DataSet:
    return open_split(Data(root=str(shapes), val=Split("val", "annotations/val.json")), "val", ("boxes", "labels"))


def measured(model: nn.Module, data: DataSet, count: int, **changes: Any) -> dict[str, float]:
    options = {"device": CPU, "workers": 0, "precision": PRECISIONS["float32"], "processes": ALONE, **changes}
    return held_out_loss(model, data.images, count, **options)


@pytest.mark.parametrize(("count", "of"), [(3, 3), (4, 4), (100, 4)])
def test_the_mean_over_the_first_images(shapes: Path, held_out: DataSet, count: int, of: int) -> None:
    document = json.loads((shapes / "annotations" / "val.json").read_text())
    objects = Counter(annotation["image_id"] for annotation in document["annotations"])
    counts = [objects[image["id"]] for image in document["images"]]
    assert len(set(counts)) > 1
    model = Counting()
    assert measured(model, held_out, count)["objects"] == pytest.approx(sum(counts[:of]) / of)
    assert model.sizes == [(3, 64, 64)] * of


def test_no_images(held_out: DataSet) -> None:
    assert measured(Counting(), held_out, 0) == {}


def test_what_is_drawn_is_the_same_each_time(held_out: DataSet) -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first = measured(Counting(), held_out, 4)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(4)
    assert measured(Counting(), held_out, 4) == first
    assert first["drawn"] != measured(Counting(), held_out, 1)["drawn"]


def test_two_processes_give_what_one_gives(held_out: DataSet) -> None:
    model = Counting()
    for count in (1, 3, 4):
        left: list[Any] = []
        assert measured(model, held_out, count, processes=OneOfTwo(1, 1, 2, left)) == {}
        model.sizes.clear()
        assert measured(model, held_out, count, processes=OneOfTwo(0, 0, 2, left)) == measured(
            Counting(), held_out, count
        )
        assert len(model.sizes) == count // 2


def test_the_precision_is_that_of_training(held_out: DataSet) -> None:
    assert measured(Counting(), held_out, 1)["autocast"] == 0
    assert measured(Counting(), held_out, 1, precision=PRECISIONS["bfloat16"])["autocast"] == 1


# Torchvision's names for the losses of Mask R-CNN.
OF_MASK_RCNN = {"loss_classifier", "loss_box_reg", "loss_mask", "loss_objectness", "loss_rpn_box_reg"}


@pytest.mark.parametrize(("name", "expected"), [("mask_rcnn", OF_MASK_RCNN), ("deeplabv3plus", {"cross_entropy"})])
def test_models(name: str, expected: set[str], shapes: Path) -> None:
    """Each is left as it was; a worker makes no difference."""
    torch.manual_seed(0)
    row = replace(vertebra.heads.head_row(name), train_size=None, test_size=None)
    model = vertebra.create_model(row, backbone="resnet18", num_classes=5)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    settings = Data(root=str(shapes), val=Split("val", "annotations/val.json"))
    data = open_split(settings, "val", model.target_keys)
    losses = measured(model, data, 2)
    assert losses == measured(model, data, 2, workers=1)
    assert set(losses) == expected
    assert all(value > 0 for value in losses.values())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
