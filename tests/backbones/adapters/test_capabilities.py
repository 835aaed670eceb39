"""What each family can do in each pipeline, tried; the table in docs/capabilities.md says the same.

`make capabilities` writes the columns of the frameworks that are installed anew.
"""

import os
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import vertebra

PAGE = Path(vertebra.__file__).parent / "docs" / "capabilities.md"
SIZE = 128
WRITE = "VERTEBRA_WRITE_CAPABILITIES"

IMAGES = torch.zeros(1, 3, SIZE, SIZE)


# Each builds a backbone as the pipeline's users do, with its stem and first stage frozen, and returns it with its
# deepest map.


def of_torchvision(name: str, output_stride: int) -> tuple[nn.Module, Tensor]:
    adapter = import_module("vertebra.backbones.adapters.torchvision")
    network = adapter.body(name, output_stride=output_stride, frozen_stages=2)
    return network, network(IMAGES)["out"]


def of_timm(name: str, output_stride: int) -> tuple[nn.Module, Tensor]:
    import timm

    import_module("vertebra.backbones.adapters.timm")
    network = timm.create_model(f"vertebra_{name}", features_only=True, output_stride=output_stride, frozen_stages=2)
    return network, network(IMAGES)[-1]


def of_smp(name: str, output_stride: int) -> tuple[nn.Module, Tensor]:
    import segmentation_models_pytorch as smp

    import_module("vertebra.backbones.adapters.smp")
    depth = max(info.stride for info in vertebra.create_backbone(name).feature_info).bit_length() - 1
    network = smp.encoders.get_encoder(f"vertebra-{name}", depth=depth, output_stride=output_stride)
    network.freeze(2)
    return network, network(IMAGES)[-1]


def of_mmengine(name: str, output_stride: int) -> tuple[nn.Module, Tensor]:
    from mmengine.registry import MODELS

    import_module("vertebra.backbones.adapters.mmdet")
    levels = tuple(range(len(vertebra.create_backbone(name).feature_info)))
    config = {"type": "VertebraBackbone", "name": name, "out_indices": levels, "frozen_stages": 1}
    network = MODELS.build({**config, "output_stride": output_stride})
    return network, network(IMAGES)[-1]


def of_detectron2(name: str, output_stride: int) -> tuple[nn.Module, Tensor]:
    adapter = import_module("vertebra.backbones.adapters.detectron2")
    network = adapter.VertebraBackbone(name, output_stride=output_stride, freeze_at=2)
    return network, [*network(IMAGES).values()][-1]


PIPELINES = {
    "torchvision": ("torchvision", of_torchvision),
    "timm": ("timm", of_timm),
    "segmentation_models.pytorch": ("segmentation_models_pytorch", of_smp),
    "mmdetection, mmsegmentation": ("mmengine", of_mmengine),
    "detectron2": ("detectron2", of_detectron2),
}


def freezes(network: nn.Module) -> bool:
    """Whether the first two stages, and they alone, get no gradient and keep their norms in eval mode."""
    (body,) = (module for module in network.modules() if isinstance(module, vertebra.Backbone))
    network.train()
    stages = body.stages()
    frozen = [module for stage in stages[:2] for part in stage for module in part.modules()]
    others = [module for stage in stages[2:] for part in stage for module in part.modules()]
    return (
        not any(module.training for module in frozen)
        and all(module.training for module in others)
        and not any(p.requires_grad for stage in stages[:2] for part in stage for p in part.parameters())
        and all(p.requires_grad for stage in stages[2:] for part in stage for p in part.parameters())
    )


def cell(build: Callable[[str, int], tuple[nn.Module, Tensor]], family: str) -> str:
    """Say which strides of the deepest map a family can have, and whether its stages freeze at each of them."""
    reached, frozen = set(), True
    for output_stride in (8, 16, 32):
        try:
            network, deepest = build(family, output_stride)
        except vertebra.InputError:
            continue
        reached.add(SIZE // deepest.shape[-1])
        frozen = frozen and freezes(network)
    return f"{', '.join(map(str, sorted(reached)))}{' · freezes' if reached and frozen else ''}"


def read() -> dict[str, dict[str, str]]:
    """Return the page's cells by family and pipeline."""
    _, _, *rows = (line.strip("| \n").split(" | ") for line in PAGE.read_text().splitlines() if line.startswith("|"))
    return {family: dict(zip(PIPELINES, cells, strict=True)) for family, *cells in rows}


def write(found: dict[str, dict[str, str]]) -> None:
    head = f"| {' | '.join(('family', *PIPELINES))} |\n|{' --- |' * (1 + len(PIPELINES))}\n"
    rows = (f"| {' | '.join((family, *cells.values()))} |\n" for family, cells in found.items())
    text = PAGE.read_text()
    PAGE.write_text(text[: text.index("| family")] + head + "".join(rows))


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_the_table_is_true(pipeline: str, family: str) -> None:
    package, build = PIPELINES[pipeline]
    if find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    found, table = cell(build, family), read()
    row = table.setdefault(family.removeprefix("small_"), dict.fromkeys(PIPELINES, "–"))
    if WRITE in os.environ:
        row[pipeline] = found
        write(table)
    assert row[pipeline] == found
