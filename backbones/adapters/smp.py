"""segmentation_models.pytorch: every name of the registry is an encoder, `smp.Unet("vertebra-resnetv2_50")`.

Its features are a list by position: the image, then a level for each halving of it. Channels and dilation may change
after an encoder was built; then its backbone is built again, and the state goes over.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..contract import Backbone, FeatureInfo, Preprocessing
from ..errors import InputError
from ..norms import FrozenBatchNorm2d
from ..records import HUB, find_record
from ..registry import create_backbone, each_backbone, weights_records
from ..weights import load_weights, recorded_norm_eps, recorded_preprocessing
from .shared import missing

try:
    from segmentation_models_pytorch.encoders import encoders, preprocess_input
    from segmentation_models_pytorch.encoders._base import EncoderMixin
except ImportError as error:
    raise missing(error, "segmentation_models_pytorch", "pip install 'vertebra[smp]'") from error


class VertebraEncoder(nn.Module, EncoderMixin):  # type: ignore[misc]  # smp has no types
    """A backbone as an encoder of smp.

    depth: how many halvings of the image there are features for; what lies deeper is not built. output_stride: 8, 16 or
    32. options: others of `create_backbone`, such as `norm`, from the `params` of an entry in `smp.encoders.encoders`.
    """

    _is_torch_scriptable = False  # the features have names inside

    def __init__(self, name: str, depth: int = 5, output_stride: int = 32, **options: Any) -> None:
        super().__init__()
        self.name, self.options = name, options
        self._depth, self._in_channels, self._output_stride = depth, 3, output_stride
        self.body = self._built(self._in_channels, output_stride)
        # Strides before the first level. At 1 stands the image; at 2, if need be, a map without channels, as in smp.
        self._before = tuple(2**i for i in range(self.body.feature_info[0].stride.bit_length() - 1))

    def _built(self, in_channels: int, output_stride: int) -> Backbone:
        levels = partial(self._levels, output_stride)
        return create_backbone(
            self.name, in_channels=in_channels, output_stride=output_stride, out_features=levels, **self.options
        )

    def _levels(self, output_stride: int, levels: tuple[FeatureInfo, ...]) -> tuple[str, ...]:
        """Choose the levels for `depth` halvings: by position, as those of a dilated backbone share strides."""
        first, strides = levels[0].stride.bit_length() - 1, [level.stride for level in levels]
        told = f"{self.name!r} has levels at strides {strides}"
        if strides != [min(2 ** (first + i), output_stride) for i in range(len(levels))]:
            raise InputError(f"{told}; smp needs one for each halving of the image")
        least, most = max(first, 1), first + len(levels) - 1
        if not least <= self._depth <= most:
            raise InputError(f"encoder_depth={self._depth}; {told}: {least} to {most}")
        return tuple(level.name for level in levels[: self._depth - first + 1])

    def _build_again(self, in_channels: int, output_stride: int, *, pretrained: bool = True) -> None:
        """Build the backbone otherwise, with the state that it has; what changes its shape is new if not pretrained."""
        old, new = self.body, self._built(in_channels, output_stride)
        new.to(next(old.parameters())).train(old.training)
        state = old.state_dict()
        if not pretrained:
            state |= {key: value for key, value in new.state_dict().items() if value.shape != state[key].shape}
        facts = {"preprocessing": recorded_preprocessing(old), "norm_eps": recorded_norm_eps(old)}
        load_weights(new, {"model": state, **facts})
        for ours, before in zip(new.modules(), old.modules(), strict=True):
            if isinstance(ours, FrozenBatchNorm2d) and isinstance(before, FrozenBatchNorm2d):
                ours.loaded = before.loaded  # norms that nobody gave statistics have none after a move either
        self.body, self._in_channels, self._output_stride = new, in_channels, output_stride

    @property
    def out_channels(self) -> list[int]:
        before = [self._in_channels if stride == 1 else 0 for stride in self._before]
        return [*before, *(level.channels for level in self.body.feature_info)]

    def forward(self, images: Tensor) -> list[Tensor]:
        """Map (N, C, H, W) to `depth` + 1 maps: the image, or a level of its size, and one for each halving of it."""
        before = [images if stride == 1 else images[:, :0, ::stride, ::stride] for stride in self._before]
        return [*before, *self.body(images).values()]

    def set_in_channels(self, in_channels: int, pretrained: bool = True) -> None:
        """Take so many channels from now on; if pretrained, the first convolution is fitted to them, else new."""
        if in_channels != self._in_channels:
            self._build_again(in_channels, self._output_stride, pretrained=pretrained)

    def make_dilated(self, output_stride: int) -> None:
        """Keep within this stride, 8 or 16, from now on: dilation takes the place of the strides beyond it."""
        if output_stride != self._output_stride:
            self._build_again(self._in_channels, output_stride)

    def freeze(self, stages: int) -> None:
        """Freeze the first stages (1: the stem, 2: stem and first stage, ...): no gradient, norms in eval mode."""
        self.body.freeze_(stages)
        self.options["frozen_stages"] = stages

    def load_state_dict(self, state_dict: Mapping[str, Tensor], strict: bool = True, assign: bool = False) -> Any:
        """Load an encoder's own state dict, or, strictly, a file of its `pretrained_settings`."""
        if state_dict.keys() & self.state_dict().keys():
            return super().load_state_dict(state_dict, strict, assign)
        load_weights(self.body, state_dict)
        for expected, _ in _published(self.name).values():  # all the same
            self.body.preprocessing = expected.for_channels(self._in_channels)
        return nn.modules.module._IncompatibleKeys([], [])

    def get_extra_state(self) -> Tensor:
        """Return mean and deviation of the images that the weights expect, (2, C), to be saved with them."""
        mean_and_std = (self.body.preprocessing.mean, self.body.preprocessing.std)
        return torch.tensor(mean_and_std, dtype=torch.float64, device="cpu")

    def set_extra_state(self, state: Tensor) -> None:
        self.body.preprocessing = Preprocessing(*map(tuple, state.tolist()))


def _published(name: str) -> dict[str, tuple[Preprocessing, dict[str, str]]]:
    """Return what smp can download for a name, by tag: records on the hub, and its own files of the same network.

    `imagenet` is the best of those records that was trained on ImageNet-1k alone, else smp's. An encoder is not told
    which tag it loads, so that tags are left out that expect other images than `imagenet` (or than the first tag).
    """
    records = weights_records(name)
    theirs = encoders[name]["pretrained_settings"] if records and name in encoders else {}
    found = {tag: (Preprocessing(), settings) for tag, settings in theirs.items()}
    on_hub = [record for record in records if record.url.startswith(HUB)]
    for record in on_hub:
        repository, _, revision = record.url.removeprefix(HUB).partition("@")
        found[record.tag] = (record.preprocessing, {"repo_id": repository, "revision": revision or "main"})
    with suppress(InputError):  # there is none
        found["imagenet"] = found[find_record(name, "imagenet", on_hub).tag]
    leading = found.get("imagenet", next(iter(found.values()), None))
    return {tag: file for tag, file in found.items() if leading and file[0] == leading[0]}


class _Published(Mapping[str, dict[str, str]]):
    """The `pretrained_settings` of a name, looked up when they are asked for."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __getitem__(self, tag: str) -> dict[str, str]:
        return _published(self.name)[tag][1]

    def __iter__(self) -> Iterator[str]:
        return iter(_published(self.name))

    def __len__(self) -> int:
        return len(_published(self.name))


def preprocessing(model: nn.Module) -> partial[Any]:
    """Return smp's preprocessing function (`get_preprocessing_fn`) for the weights that a model's encoder has."""
    for module in model.modules():
        if isinstance(module, VertebraEncoder):
            mean, std = module.get_extra_state().tolist()
            return partial(preprocess_input, input_space="RGB", input_range=[0, 1], mean=mean, std=std)
    raise InputError(f"{type(model).__name__} has no vertebra encoder; use smp.encoders.get_preprocessing_fn")


def _enter(name: str) -> None:
    entry = {"encoder": VertebraEncoder, "pretrained_settings": _Published(name), "params": {"name": name}}
    encoders.setdefault(f"vertebra-{name}", entry)


each_backbone(_enter)
