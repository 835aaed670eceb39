"""Where in a model the first value comes up that is not finite."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Finding:
    """A tensor with values that are not finite.

    what: output, gradient (that comes back to an output), weight or loss. name: of the module, weight or loss. share:
    of its values, those that are not finite. largest: the largest magnitude of the others. given: the same of what the
    module was given; nan where that was not finite already, None where it is no output.
    """

    what: str
    name: str
    kind: str
    share: float
    largest: float
    given: float | None = None


class Watch:
    """While it is entered, notes the first output of a module, and the first gradient, that is not finite."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.output: Finding | None = None
        self.gradient: Finding | None = None

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Hooks are on all modules meanwhile; those inside of others come before them."""
        modules = [(name, module) for name, module in self.model.named_modules() if name]
        handles = [module.register_forward_hook(self._after(name), with_kwargs=True) for name, module in modules]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _after(self, name: str) -> Any:
        def hook(module: nn.Module, given: Any, options: Any, output: Any) -> None:
            kind = type(module).__name__
            for tensor in tensors(output):
                if self.output is None and not finite(tensor):
                    magnitude = max(
                        (_largest(t) if finite(t) else torch.nan for t in tensors((given, options))), default=0
                    )
                    self.output = found("output", name, kind, tensor, magnitude)
                if tensor.requires_grad:
                    tensor.register_hook(self._back(name, kind))  # type: ignore[no-untyped-call]

        return hook

    def _back(self, name: str, kind: str) -> Any:
        def hook(gradient: Tensor) -> None:
            if self.gradient is None and not finite(gradient):
                self.gradient = found("gradient", name, kind, gradient)

        return hook


def finite(tensor: Tensor) -> bool:
    return bool(tensor.isfinite().all())


def found(what: str, name: str, kind: str, tensor: Tensor, given: float | None = None) -> Finding:
    """Return what is not finite of a tensor."""
    share = 1 - float(tensor.isfinite().float().mean())
    return Finding(what, name, kind, share, _largest(tensor), given)


def odd_weights(model: nn.Module) -> list[Finding]:
    """Return the parameters and buffers that are not finite."""
    named = model.state_dict().items()
    return [found("weight", name, "", value) for name, value in named if not finite(value)]


def tensors(value: Any) -> Iterator[Tensor]:
    """Yield the tensors of real numbers in a value that modules take or return."""
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from tensors(part)
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from tensors(part)


def _size(given: Iterable[Tensor]) -> float:
    """Return the largest magnitude of all of these, nan where one is not finite."""
    sizes = [_largest(tensor) if finite(tensor) else torch.nan for tensor in given]
    return sum(sizes) if any(map(math.isnan, sizes)) else max(sizes, default=0.0)


def _largest(tensor: Tensor) -> float:
    sound = tensor.detach()[tensor.isfinite()]
    return float(sound.abs().max()) if len(sound) else 0.0
