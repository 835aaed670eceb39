"""timm's networks as backbones: `timm/<name>`, by what timm can do.

What a network cannot do is found out before it is built, on the meta device: timm's own refusals, maps that are not at
the strides that it declares, options that it takes and ignores. timm is imported when one of its names is asked for.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cached_property
from inspect import signature
from math import ceil, lcm
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .contract import Backbone, FeatureInfo, Preprocessing, Step, Trunk
from .errors import InputError, unknown
from .norms import NORMS, Norm
from .stage import Recomputing, recompute

# --- the networks --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Frame:
    """What lies between our contract and a network of timm: the sizes of images it takes, the form of its maps.

    features: what its maps are, in order. grid: (H, W), of which images have to be multiples, or with `fixed` the one
    size. channels_last: maps are (N, H, W, C). concatenates: of maps that come in several parts, all are meant, else
    the first.
    """

    network: str
    features: tuple[FeatureInfo, ...]
    grid: tuple[int, int]
    fixed: bool = False
    channels_last: bool = False
    concatenates: bool = False

    def pad(self, images: Tensor) -> Tensor:
        """Return the images with zeros on the right and at the bottom, at a size that the network takes."""
        height, width = images.shape[-2:]
        if self.fixed and (height > self.grid[0] or width > self.grid[1]):
            raise InputError(
                f"{self.network} takes images of up to {self.grid[0]}x{self.grid[1]}, these are {height}x{width}; "
                "make them smaller, or take a network without a fixed size"
            )
        return F.pad(images, (0, -width % self.grid[1], 0, -height % self.grid[0]))

    def arrange(self, maps: Iterable[Any]) -> list[Tensor]:
        """Return timm's maps as one tensor each, (N, C, H, W)."""
        whole = [
            x if isinstance(x, Tensor) else torch.cat(tuple(x), dim=1) if self.concatenates else x[0] for x in maps
        ]
        return [x.permute(0, 3, 1, 2) for x in whole] if self.channels_last else whole

    def cut(self, maps: Iterable[Any], images: Tensor) -> dict[str, Tensor]:
        """Return the maps as (N, C, ceil(H / stride), ceil(W / stride)) by name, without what stands for padding."""
        height, width = images.shape[-2:]
        return {
            info.name: x[..., : ceil(height / info.stride), : ceil(width / info.stride)]
            for info, x in zip(self.features, self.arrange(maps), strict=False)  # fewer maps after `select_`
        }


@dataclass(frozen=True)
class Plan:
    """What surrounds timm's modules: the classifier that they are of (without memory), and whether norms are frozen."""

    frame: Frame
    preprocessing: Preprocessing
    classifier: nn.Module
    frozen: bool


class TimmBackbone(Backbone):
    """A network of timm.

    Its images are padded on the right and at the bottom to a multiple of its deepest stride, and its features cut to
    ceil(size / stride): at multiples (most often of 32) they equal timm's exactly, and other sizes are taken whatever
    timm does with them.
    """

    def _fit(self, plan: Plan, renames: Iterable[tuple[str, str]]) -> None:
        """Take over what surrounds timm's modules, once they are in place.

        The weights of timm's classifier fit, renamed; of them may be dropped exactly what this network does not build.
        """
        self.frame = plan.frame
        self.awaits_statistics = plan.frozen
        self.renames = tuple(renames)
        own = set(self.state_dict())
        self.droppable_keys = tuple(sorted({_renamed(key, self.renames) for key in plan.classifier.state_dict()} - own))

    @abstractmethod
    def maps(self, images: Tensor) -> Iterable[Any]:
        """Return timm's maps in order, as they are."""

    def forward_features(self, images: Tensor) -> dict[str, Tensor]:
        if self.awaits_statistics:
            raise InputError(
                "norm='frozen_batch' was never given statistics: load weights first, or train from scratch with "
                "norm='batch'"
            )
        return self.frame.cut(self.maps(self.frame.pad(images)), images)

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args)
        statistics = [name for name, _ in self.named_buffers() if name.endswith("running_mean")]
        if all(f"{prefix}{name}" in state_dict for name in statistics):
            self.awaits_statistics = False


class TimmTrunk(TimmBackbone, Trunk):
    """A network whose modules run one after the other: it can be frozen by stage, recomputed and cut short."""

    def __init__(self, net: Any, plan: Plan) -> None:
        steps = _steps(net, plan.frame.features)
        Trunk.__init__(self, steps, plan.preprocessing)
        # timm flattens sequences: `stages.0` of the classifier is `stages_0` here.
        names_of_timm = [name for name, _ in plan.classifier.named_modules() if name.count(".") < 2]
        dotted = {name.replace(".", "_"): name for name in reversed(names_of_timm)}
        modules = [(step.name, name) for step in steps for name, _ in step.module.named_children()]
        self._fit(plan, [(rf"^{re.escape(dotted[name])}\.", f"{step}.{name}.") for step, name in modules])

    def maps(self, images: Tensor) -> Iterable[Any]:
        return Trunk.forward_features(self, images).values()


class TimmWhole(TimmBackbone):
    """A network that timm runs as a whole."""

    def __init__(self, net: nn.Module, plan: Plan) -> None:
        super().__init__(plan.frame.features, plan.preprocessing)
        self.net = net
        children = [name for name, _ in net.named_children()]
        flattened = [
            (rf"^{name}\.([^.]+)\.", rf"{name}_\1.")
            for name, module in plan.classifier.named_children()
            if any(f"{name}_{child}" in children for child, _ in module.named_children())
        ]
        # Some wrap the network in one child, `model` or `body`.
        prefix = f"net.{children[0]}." if len(children) == 1 else "net."
        self._fit(plan, [*flattened, (r"^(?!net\.)", prefix)])

    def maps(self, images: Tensor) -> Iterable[Any]:
        found: list[Tensor] = self.net(images)
        return found


class Segment(nn.Sequential, Recomputing):
    """What runs between two features, with timm's names; recomputed at once."""

    def forward(self, x: Tensor) -> Tensor:
        run: Callable[[Tensor], Tensor] = super().forward
        return recompute(run, x, module=self) if self.recomputes else run(x)


def _steps(net: Any, features: Sequence[FeatureInfo]) -> list[Step]:
    """Return timm's modules as steps `to_<feature>`.

    The stem is what comes up to the last feature at stride 1 or 2, or, where there is none, before the first feature's
    module.
    """
    after = dict(zip(net.return_layers, features, strict=True))
    steps: list[Step] = []
    waiting: dict[str, nn.Module] = {}
    for name, module in net.items():
        feature = after.get(name)
        if feature and feature.stride > 2 and waiting and not steps:
            steps.append(Step("to_stem", _segment(waiting), 0))
            waiting = {}
        waiting[name] = module
        if feature:
            stage = steps[-1].stage + (feature.stride > 2) if steps else 0
            steps.append(Step(f"to_{feature.name}", _segment(waiting), stage, feature))
            waiting = {}
    return steps


def _renamed(key: str, renames: Iterable[tuple[str, str]]) -> str:
    for pattern, replacement in renames:
        key = re.sub(pattern, replacement, key)
    return key


def _segment(modules: Mapping[str, nn.Module]) -> Segment:
    segment = Segment()
    for name, module in modules.items():
        segment.add_module(name, module)
    return segment


# --- norms ---------------------------------------------------------------------------------------------------------


def _as_built(network: str, net: nn.Module) -> nn.Module:
    return net


def _frozen(network: str, net: nn.Module) -> nn.Module:
    from timm.layers import freeze_batch_norm_2d  # type: ignore[attr-defined]

    _demand_batch_norm(network, net, "frozen_batch")
    frozen: nn.Module = freeze_batch_norm_2d(net)  # type: ignore[no-untyped-call]
    if any(isinstance(module, _BatchNorm) for module in frozen.modules()):
        raise InputError(f"norm='frozen_batch': {network} also has batch norms of vectors, which timm does not freeze")
    return frozen


def _synchronised(network: str, net: nn.Module) -> nn.Module:
    from timm.layers import convert_sync_batchnorm  # type: ignore[attr-defined]

    _demand_batch_norm(network, net, "sync_batch")
    synchronised: nn.Module = convert_sync_batchnorm(net)  # type: ignore[no-untyped-call]
    return synchronised


def _demand_batch_norm(network: str, net: nn.Module, norm: str) -> None:
    if not any(isinstance(module, nn.BatchNorm2d) for module in net.modules()):
        raise InputError(f"norm={norm!r}: {network} has no batch norm; timm's networks keep their own norms")


_CONVERSIONS: dict[Norm, Callable[[str, nn.Module], nn.Module]] = {
    NORMS["batch"]: _as_built,
    NORMS["frozen_batch"]: _frozen,
    NORMS["sync_batch"]: _synchronised,
}

# --- the builder ---------------------------------------------------------------------------------------------------


def timm_names() -> list[str]:
    """Return the names of timm's networks, `timm/` included and without the tags of weights."""
    # Without ours, which the adapter for timm enters there.
    return [f"timm/{name}" for name in _timm("*").list_models(exclude_filters="vertebra_*")]


@dataclass(frozen=True)
class TimmNetwork:
    """A network of timm by its name there, `convnext_tiny` or with a tag `convnext_tiny.fb_in1k`: call it to build it.

    Features are named by their strides before dilation (c2 at 4, c3 at 8, …), or c1, c2, … in order where strides are
    not distinct powers of two, as in a vision transformer.
    """

    name: str

    @property
    def default_features(self) -> tuple[str, ...]:
        """All at stride 4 and beyond, before dilation."""
        strides: list[int] = self._plain.feature_info.reduction()
        return tuple(name for name, stride in zip(_names(strides), strides, strict=True) if stride >= 4)

    def __call__(
        self, *, in_channels: int, output_stride: int, norm: Norm, drop_path: float | None = None
    ) -> TimmBackbone:
        if norm not in _CONVERSIONS:
            raise InputError(f"{self} keeps its own norms: take norm='batch', 'frozen_batch' or 'sync_batch'")
        plain = self._plain
        classifier = self._meta()
        strides = plain.feature_info.reduction()
        asked: dict[str, Any] = {}
        # 32 is what timm's networks are built for; some go deeper, and say so.
        if output_stride < min(32, max(strides)):
            asked["output_stride"] = output_stride
        if drop_path is not None and (drop_path or _drops(plain)):
            asked["drop_path_rate"] = drop_path
        options = {"features_only": True, "in_chans": in_channels, **asked, **_sizes(classifier)}
        options |= _sequence(plain, classifier, asked)
        twin = self._allowed(asked, options)
        frame = self._frame(twin, in_channels, _names(strides), strides)
        net = _CONVERSIONS[norm](str(self), self._create(**options))
        mean, std = plain.pretrained_cfg["mean"], plain.pretrained_cfg["std"]
        preprocessing = Preprocessing(tuple(mean), tuple(std)).for_channels(in_channels)
        plan = Plan(frame, preprocessing, classifier, norm is NORMS["frozen_batch"])
        return TimmTrunk(net, plan) if hasattr(net, "return_layers") else TimmWhole(net, plan)

    def __str__(self) -> str:
        return f"timm/{self.name}"

    def _create(self, **options: Any) -> Any:
        return _timm(str(self)).create_model(self.name, **deepcopy(options))  # timm changes what is in them

    def _meta(self, **options: Any) -> Any:
        """Build without memory and random numbers."""
        with torch.device("meta"):
            return self._create(**options).eval()

    @cached_property
    def _plain(self) -> Any:
        """Return the network as timm builds it by default, on the meta device."""
        timm = _timm(str(self))
        known = {*timm.list_models(), *timm.list_models(include_tags=True)}
        if self.name not in known and not ("." not in self.name and timm.is_model(self.name)):  # is_model: old names
            raise unknown("backbone", str(self), [f"timm/{name}" for name in known], see="See list_backbones('timm/*')")
        try:
            return self._meta(features_only=True)
        except Exception as error:  # timm refuses with all kinds of types, asserts among them
            raise InputError(
                f"{self} gives no feature maps ({_reason(error)}): take a network that timm builds with features_only"
            ) from error

    def _allowed(self, asked: Mapping[str, Any], options: Mapping[str, Any]) -> Any:
        """Return the network with these options on the meta device, if timm can and does honour what was asked."""
        wish = ", ".join(f"{option}={value}" for option, value in asked.items())
        try:
            twin = self._meta(**options)
        except Exception as error:  # as above
            raise InputError(f"{self} cannot do {wish or options}: {_reason(error)}") from error
        if max(twin.feature_info.reduction()) > asked.get("output_stride", float("inf")):
            raise InputError(f"{self} cannot do {wish}: its strides stay {twin.feature_info.reduction()}")
        if "drop_path_rate" in asked and _drops(twin) is not bool(asked["drop_path_rate"]):
            raise InputError(f"{self} cannot do {wish}: it takes no notice of it")
        return twin

    def _frame(self, twin: Any, in_channels: int, names: Sequence[str], strides: Sequence[int]) -> Frame:
        """Return the first frame in which the network's maps are what it declares, tried on the meta device."""
        info = twin.feature_info
        features = tuple(map(FeatureInfo, names, info.channels(), info.reduction()))
        size = twin.pretrained_cfg["input_size"][-2:]
        step = lcm(*strides)
        frame = Frame(
            str(self),
            features,
            grid=(step, step),
            channels_last=str(getattr(twin, "output_fmt", "")).endswith("NHWC"),
            concatenates=getattr(twin, "concat", False),
        )
        # Most take multiples of their stride, some of twice that (patches of 2x2 of the last map) or of the size that
        # they are made for (a number of windows); the rest take that size alone.
        wider = (replace(frame, grid=(2 * step, 2 * step)), replace(frame, grid=size))
        for tried in (frame, *wider, replace(frame, grid=size, fixed=True)):
            fault = _fault(twin, tried, in_channels)
            if not fault:
                return tried
        raise InputError(f"{self} does not give features of ceil(size / stride): {fault}")


def _fault(twin: nn.Module, frame: Frame, in_channels: int) -> str:
    """Say what is wrong with the maps of a network in this frame; nothing if they are as declared."""
    times = (1, 1) if frame.fixed else (3, 2)
    size = (frame.grid[0] * times[0], frame.grid[1] * times[1])
    try:
        with torch.no_grad(), torch.device("meta"):
            maps = frame.arrange(twin(torch.empty(1, in_channels, *size)))
    except Exception as error:  # whatever timm raises where it does not take the size
        return f"for images of {size[0]}x{size[1]} timm says {_reason(error)}"
    real = [tuple(x.shape[1:]) for x in maps]
    declared = [(info.channels, ceil(size[0] / info.stride), ceil(size[1] / info.stride)) for info in frame.features]
    return "" if real == declared else f"for images of {size[0]}x{size[1]} they are {real}, not {declared}"


def _timm(network: str) -> ModuleType:
    try:
        import timm
    except ImportError as error:
        raise InputError(f"{network} needs the package timm: pip install timm") from error
    module: ModuleType = timm
    return module


def _reason(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0] or type(error).__name__


def _names(strides: Sequence[int]) -> list[str]:
    powers = len(set(strides)) == len(strides) and all(stride.bit_count() == 1 for stride in strides)
    return [f"c{stride.bit_length() - 1 if powers else i}" for i, stride in enumerate(strides, start=1)]


def _drops(net: nn.Module) -> bool:
    """Whether blocks are dropped for some samples (stochastic depth)."""
    return any(getattr(module, "drop_prob", None) for module in net.modules())


def _sizes(classifier: nn.Module) -> dict[str, bool]:
    """Return the option with which the network takes images of other sizes than it was trained at, if it has one."""
    options = signature(type(classifier)).parameters
    return {"dynamic_img_size": True} if "dynamic_img_size" in options else {}


def _sequence(plain: nn.Module, classifier: nn.Module, asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return the option that makes timm build EfficientNet and MobileNetV3 of modules in a row, as others are."""
    own = type(plain).__name__ in ("EfficientNetFeatures", "MobileNetV3Features")
    # Only the class of its own lets MobileNetV3 dilate.
    able = asked.keys() <= signature(type(classifier)).parameters.keys()
    return {"feature_cfg": {"feature_cls": "list", "flatten_sequential": True}} if own and able else {}
