"""The proof of a conversion: features of our network and of the framework's own, with the weights that each has."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from ..contract import Backbone
from ..errors import InputError
from .framework import Framework
from .spelling import Spelling

TOLERANCE = 1e-6
SIZE = (1, 3, 64, 96)


def difference(
    network: Backbone,
    name: str,
    framework: Framework,
    spelling: Spelling,
    state: Mapping[str, Tensor],
    *,
    eps: float | None,
    reverses: bool,
) -> float:
    """Return the largest difference of any feature, relative to the largest value of that feature; in float64.

    state: the tensors under the framework's names, for norms with this eps. reverses: whether they are for images
    whose channels stand the other way round. Raises ImportError where the framework is not installed, InputError where
    the tensors are not those of its network.
    """
    with torch.device("meta"):
        peer = framework.build(name)
    peer.eval()  # which returns nothing where a framework has its own `train`
    state = framework.adopt(peer, spelling, state)
    whole = {key: value.double() if value.is_floating_point() else value for key, value in state.items()}
    outcome = peer.load_state_dict(whole, strict=False, assign=True)
    missing = [key for key in outcome.missing_keys if not _may_be_missing(key, network)]
    if missing or outcome.unexpected_keys:
        raise InputError(
            f"{framework.name}'s own {name} has other tensors: {len(missing)} are missing and "
            f"{len(outcome.unexpected_keys)} unexpected (as {min([*missing, *outcome.unexpected_keys])!r})"
        )
    ours = deepcopy(network).double().eval()
    set_eps(peer, eps)
    images = torch.randn(SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = ours(images)
        expected = _features(peer, framework.taps(name), images.flip(1) if reverses else images)
    return max(float((found[key] - expected[key]).abs().max() / expected[key].abs().max()) for key in found)


def _may_be_missing(key: str, network: Backbone) -> bool:
    return key.endswith("num_batches_tracked") or key.startswith(network.droppable_keys)


def eps_of(network: nn.Module) -> float | None:
    """Return the eps of the norms, which have running statistics; None where there are none of them."""
    found: list[Any] = [module for module in network.modules() if hasattr(module, "running_var")]
    return float(found[0].eps) if found else None


def set_eps(network: nn.Module, eps: float | None) -> None:
    """Give the norms this eps; None leaves them be."""
    norms: list[Any] = [module for module in network.modules() if hasattr(module, "running_var")]
    for norm in norms if eps is not None else ():
        norm.eps = eps


class _Seen(Exception):  # no error: the last feature is there
    pass


def _features(network: nn.Module, taps: Mapping[str, tuple[str, bool]], images: Tensor) -> dict[str, Tensor]:
    """Return what comes out of the modules, and stop there: a classifier behind them has no memory."""
    found: dict[str, Tensor] = {}
    handles = []
    for key, (path, activate) in taps.items():

        def keep(module: nn.Module, _: Any, out: Tensor, key: str = key, activate: bool = activate) -> None:
            # A copy, because an activation may follow in place.
            found[key] = out.relu() if activate else out.clone()
            if len(found) == len(taps):
                raise _Seen

        handles.append(network.get_submodule(path).register_forward_hook(keep))
    try:
        network(images)
    except _Seen:
        pass
    finally:
        for handle in handles:
            handle.remove()
    return found
