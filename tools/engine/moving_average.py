"""A moving average of the weights, which is evaluated beside them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ...backbones import InputError


class MovingAverage:
    """An exponential moving average of a model's floating-point values, statistics of norms included.

    After step number n the average moves by 1 - d towards the weights, d = min(decay, (1 + n) / (10 + n)): at first it
    follows closely, so that it soon forgets the initialisation. It is kept in float32 at least, on the model's device,
    and begins with the values that the model has when it is made: load weights and move the model before.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = model
        self.decay = decay
        # The model's own tensors, not copies: steps and statistics change them in place.
        self._values = {key: value for key, value in _state(model).items() if value.is_floating_point()}
        self._averages = {key: value.detach().to(_wide(value), copy=True) for key, value in self._values.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after optimiser step number `step`, counted from 1."""
        weight = 1 - min(self.decay, (1 + step) / (10 + step))
        averages = list(self._averages.values())
        values = [v.to(a.dtype) for v, a in zip(self._values.values(), averages, strict=True)]
        torch._foreach_lerp_(averages, values, weight)

    def state_dict(self) -> dict[str, Any]:
        """Return a state dict of the model with the average in it; not copies, as of `nn.Module.state_dict`."""
        return {**self.model.state_dict(), **self._averages}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from an average that was saved; counters of the model, which are not averaged, stay as they are."""
        missing = [key for key in self._averages if key not in state]
        if missing:
            raise InputError(
                f"the moving average that was saved has no {missing[0]!r} and {len(missing) - 1} more: it is of "
                "another model"
            )
        for key, average in self._averages.items():
            average.copy_(state[key])

    @contextmanager
    @torch.no_grad()
    def applied(self) -> Iterator[None]:
        """Give the model the average meanwhile; after that it has its own values again, to the bit.

        What becomes of the statistics of norms in between (`refresh_norms`) stays in the average.
        """
        values, averages = list(self._values.values()), list(self._averages.values())
        kept = [value.clone() for value in values]
        torch._foreach_copy_(values, averages)
        try:
            yield
        finally:
            for key, _ in self.model.named_buffers(remove_duplicate=False):
                if key in self._averages:
                    self._averages[key].copy_(self._values[key])
            torch._foreach_copy_(values, kept)


def _state(model: nn.Module) -> dict[str, Tensor]:
    state = model.state_dict(keep_vars=True)
    return {key: value for key, value in state.items() if isinstance(value, Tensor)}


def _wide(value: Tensor) -> torch.dtype:
    """Return float32, or the value's own type where that is wider: in bfloat16 small moves would round to none."""
    return torch.promote_types(value.dtype, torch.float32)
