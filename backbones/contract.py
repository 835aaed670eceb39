"""What every backbone promises: named features of known channels and stride, and the preprocessing it expects."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, islice

import torch
from torch import Tensor, nn

from .errors import InputError, unknown
from .stage import Recomputing

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class FeatureInfo:
    """One feature map: its name (by stage, `c4`, `p5`), its channels, and its exact stride in pixels of the input."""

    name: str
    channels: int
    stride: int


@dataclass(frozen=True)
class Preprocessing:
    """Mean and standard deviation of each input channel (RGB order, values in [0, 1]) that a backbone expects."""

    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD

    def for_channels(self, count: int) -> Preprocessing:
        """Return the same for `count` input channels: averaged over RGB for one channel, else repeated in order."""
        if count == len(self.mean):
            return self
        if count == 1:
            return Preprocessing((sum(self.mean) / len(self.mean),), (sum(self.std) / len(self.std),))
        return Preprocessing(tuple(islice(cycle(self.mean), count)), tuple(islice(cycle(self.std), count)))

    def of_bytes(self) -> Preprocessing:
        """Return the same for values in [0, 255], as detectron2 and mmdetection write it down."""
        # Rounded to be read: 57.12, not 57.120000000000005.
        return Preprocessing(tuple(round(255 * x, 9) for x in self.mean), tuple(round(255 * x, 9) for x in self.std))

    def normalise(self, image: Tensor) -> Tensor:
        """Return the normalised image; takes (..., C, H, W), float in [0, 1], uint8 or uint16."""
        if image.shape[-3] != len(self.mean):
            raise InputError(
                f"an image has {image.shape[-3]} channels, the backbone takes {len(self.mean)}: "
                "convert the image, or create the backbone with in_channels"
            )
        if not image.is_floating_point():
            image = image.to(torch.get_default_dtype()) / (65535 if image.dtype == torch.uint16 else 255)
        mean = image.new_tensor(self.mean)[:, None, None]
        std = image.new_tensor(self.std)[:, None, None]
        return (image - mean) / std


class Backbone(nn.Module, ABC):
    """A network that turns normalised images into named feature maps.

    A subclass calls `super().__init__` with all the features that it can give, high to low resolution, and defines
    `forward_features`; with `stages` it can also be frozen by stage. `feature_info` always says exactly what `forward`
    returns.
    """

    def __init__(self, feature_info: Iterable[FeatureInfo], preprocessing: Preprocessing | None = None) -> None:
        super().__init__()
        self.feature_info = tuple(feature_info)
        self.preprocessing = preprocessing or Preprocessing()
        # What load_weights knows of public checkpoints: prefixes of keys that this network does not build, and
        # (pattern, replacement) pairs that turn their names into its own, applied in order.
        self.droppable_keys: tuple[str, ...] = ()
        self.renames: tuple[tuple[str, str], ...] = ()
        self._frozen_stages = 0  # not the modules: others may be put in their places, as by convert_sync_batchnorm

    @abstractmethod
    def forward_features(self, images: Tensor) -> dict[str, Tensor]:
        """Return every feature, or at least those of `feature_info`, by name."""

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Map (N, C, H, W) normalised images to {name: (N, channels, ceil(H / stride), ceil(W / stride))}."""
        features = self.forward_features(images)
        for info in self.feature_info:
            if features[info.name].shape[1] != info.channels:
                raise InputError(
                    f"forward_features of {type(self).__name__} gives {info.name} {features[info.name].shape[1]} "
                    f"channels, and {info.channels} were declared; feature_info has only what is to be returned"
                )
        return {info.name: features[info.name] for info in self.feature_info}

    def stages(self) -> tuple[tuple[nn.Module, ...], ...]:
        """Return the modules of the stem, of the first stage, and so on: what `frozen_stages` counts."""
        raise InputError(
            f"{type(self).__name__} cannot be frozen by stage: define stages() to return the modules of its stem and "
            "of each stage in order, or use frozen_stages=0"
        )

    def select_(self, out_features: Sequence[str]) -> None:
        """Return only these features from now on, in the order high to low resolution."""
        names = [info.name for info in self.feature_info]
        for name in out_features:
            if name not in names:
                raise unknown(f"feature of {type(self).__name__}", name, names)
        if not out_features:
            raise InputError(f"out_features is empty; choose from {', '.join(names)}")
        self.feature_info = tuple(info for info in self.feature_info if info.name in out_features)

    def freeze_(self, count: int) -> None:
        """Freeze the first `count` stages (1: the stem, 2: stem and first stage, ...): no gradient, norms in eval mode.

        Survives `train()`. Stages that an earlier call froze, and this one does not, learn again.
        """
        if count == self._frozen_stages == 0:  # a network without stages has nothing to freeze
            return
        stages = self.stages()
        if not 0 <= count <= len(stages):
            raise InputError(f"frozen_stages={count}, but there are {len(stages)} stages to freeze, the stem included")
        for module in self._frozen():
            module.requires_grad_(True)
        self._frozen_stages = count
        for module in self._frozen():
            module.requires_grad_(False)
        self.train(self.training)

    def checkpoint_(self) -> None:
        """Recompute activations in the backward pass: less memory, more time, the same results."""
        raise InputError(
            f"{type(self).__name__} cannot recompute activations: define checkpoint_(), or use checkpointing=False"
        )

    def train(self, mode: bool = True) -> Backbone:
        super().train(mode)
        for module in self._frozen():
            module.eval()
        return self

    def _frozen(self) -> Iterator[nn.Module]:
        stages = self.stages()[: self._frozen_stages] if self._frozen_stages else ()
        return (module for stage in stages for module in stage)


@dataclass(frozen=True)
class Step:
    """A named module of a trunk, the stage it belongs to (0 is the stem), and the feature that stands after it."""

    name: str
    module: nn.Module
    stage: int
    feature: FeatureInfo | None = None


class Trunk(Backbone):
    """A backbone made of named modules that run one after the other, with features tapped between them.

    The modules are direct children, so that keys are those of public checkpoints (`conv1.weight`, `layer1.0.…`).
    """

    def __init__(
        self,
        steps: Sequence[Step],
        preprocessing: Preprocessing,
        droppable_keys: tuple[str, ...] = (),
        renames: tuple[tuple[str, str], ...] = (),
    ) -> None:
        super().__init__((step.feature for step in steps if step.feature), preprocessing)
        for step in steps:
            self.add_module(step.name, step.module)
        self.droppable_keys = droppable_keys
        self.renames = renames
        self._stage_of = {step.name: step.stage for step in steps}
        self._tap_after = {step.name: step.feature.name for step in steps if step.feature}

    def walk(self) -> Iterator[tuple[str, nn.Module, str | None]]:
        """Yield the modules in the order in which they run: name, module, and the feature that stands after it."""
        for name in self._stage_of:
            yield name, getattr(self, name), self._tap_after.get(name)

    def forward_features(self, images: Tensor) -> dict[str, Tensor]:
        features = {}
        x = images
        for _, module, feature in self.walk():
            x = module(x)
            if feature is not None:
                features[feature] = x
        return features

    def stages(self) -> tuple[tuple[nn.Module, ...], ...]:
        count = 1 + max(self._stage_of.values())
        return tuple(tuple(getattr(self, n) for n, s in self._stage_of.items() if s == stage) for stage in range(count))

    def checkpoint_(self) -> None:
        """Recompute what lies inside the stages; the stem and the norms between stages are kept."""
        for module in self.modules():
            if isinstance(module, Recomputing):
                module.recomputes = True

    def select_(self, out_features: Sequence[str]) -> None:
        """Return only these features, and drop the modules after the deepest of them."""
        super().select_(out_features)
        names = list(self._stage_of)
        deepest = max(names.index(n) for n, tap in self._tap_after.items() if tap in out_features)
        for name in names[deepest + 1 :]:
            delattr(self, name)
            del self._stage_of[name]
            self._tap_after.pop(name, None)
            self.droppable_keys += (f"{name}.",)
