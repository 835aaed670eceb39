"""A case so small that its steps take a second."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from vertebra.tools.speed.case import Case

MakeCase = Callable[..., Case]


@pytest.fixture
def tiny() -> MakeCase:
    """Make a case, by default a Mask R-CNN on two images, with changes."""

    def make(**changes: Any) -> Case:
        settings: dict[str, Any] = {
            "head": "mask_rcnn", "backbone": "resnet18", "size": (32, 48), "batch_size": 2, "objects": 3,
            "dtypes": ("float32",), "compiled": False, "device": torch.device("cpu"), "steps": ("inference",),
            "repeats": 1, "libraries": ("torchvision",),
        }  # fmt: skip
        return Case(**{**settings, **changes})

    return make
