"""torchvision's and timm's classifiers, which have our names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache, partial
from pathlib import Path

from torch import Tensor, nn

from ..contract import Preprocessing
from ..registry import weights_records
from .files import Content
from .framework import Framework
from .pixels import Told, three
from .spelling import Spelling


@cache
def _names(library: str) -> frozenset[str]:
    if library == "torchvision":
        from torchvision import models

        return frozenset(models.list_models())
    import timm

    return frozenset(timm.list_models())


def _build_torchvision(name: str) -> nn.Module:
    from torchvision import models

    network: nn.Module = models.get_model(name)
    return network


def _build_timm(name: str) -> nn.Module:
    import timm

    network: nn.Module = timm.create_model(name)
    return network


def _nothing_told(content: Content, name: str) -> Told:
    return Told()


def _habit(library: str, name: str, spelling: Spelling) -> Told:
    """Return RGB, with mean and deviation of the library's public weights of that name where those agree."""
    published = {record.preprocessing for record in weights_records(name) if record.source == library}
    if len(published) != 1:
        return Told("rgb")
    (preprocessing,) = published
    return Told("rgb", three(preprocessing.mean), three(preprocessing.std))


def _adopt(module: nn.Module, spelling: Spelling, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Return DenseNets of 2017 under today's names, as torchvision does when it loads what it published."""
    return {re.sub(r"(\.denselayer\d+\.(?:norm|conv))\.(\d)\.", r"\1\2.", key): value for key, value in state.items()}


def _frozen_norms(content: Content, name: str) -> tuple[str, ...]:
    """Return what the file of a detector with frozen norms, which count no batches, leaves open."""
    keys = content.state.keys()
    if "backbone.body.bn1.weight" not in keys or any(key.endswith("num_batches_tracked") for key in keys):
        return ()
    return ("its norms were frozen: in torchvision's published detectors (COCO_V1) with eps 0, which is --eps 0",)


def _tensors_alone(state: Mapping[str, Tensor], preprocessing: Preprocessing) -> Mapping[str, Tensor]:
    return state


def _statistics(preprocessing: Preprocessing) -> str:
    return f"images: RGB in [0, 1], mean={list(preprocessing.mean)}, std={list(preprocessing.std)}"


def _torchvision_advice(name: str, preprocessing: Preprocessing, path: Path) -> tuple[str, ...]:
    return (
        f"model = torchvision.models.{name}()",
        f"model.load_state_dict(torch.load({str(path)!r}), strict=False)  # its classifier alone is missing",
        _statistics(preprocessing),
    )


def _timm_advice(name: str, preprocessing: Preprocessing, path: Path) -> tuple[str, ...]:
    return (
        f"model = timm.create_model({name!r}, num_classes=0)",
        f"timm.models.load_checkpoint(model, {str(path)!r}, strict=False)",
        _statistics(preprocessing),
    )


def _framework(library: str) -> Framework:
    torchvision = library == "torchvision"
    return Framework(
        library,
        has=lambda name: name in _names(library),
        build=_build_torchvision if torchvision else _build_timm,
        largest=1,
        told=_nothing_told,
        habit=partial(_habit, library),
        wrap=_tensors_alone,
        suffixes=(".pth", ".pt", ".safetensors"),
        advice=_torchvision_advice if torchvision else _timm_advice,
        adopt=_adopt,
        remarks=_frozen_norms if torchvision else lambda content, name: (),
    )


TORCHVISION, TIMM = _framework("torchvision"), _framework("timm")
