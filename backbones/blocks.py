"""Residual blocks: which convolutions they apply, and how their branches join.

A block class takes the convolutions of its residual branch, the shortcut around it, the norm, what stochastic depth
does to the branch, and the chance of dropout between the convolutions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from torch import Tensor, nn

from .contract import Step
from .norms import Norm, convolve
from .placement import Placement


@dataclass(frozen=True)
class Convs:
    """The convolutions of a block, one after the other; any list of kernels, B(…) of arXiv:1605.07146, section 2.2.

    All but the last give `width * inner_ratio` channels, the last `width * expansion`. The one at index `strided`
    carries the block's stride; `groups` applies to those wider than 1x1.
    """

    kernels: tuple[int, ...]
    strided: int = 0
    expansion: int = 1
    inner_ratio: float = 1
    groups: int = 1

    def build(self, in_channels: int, width: int, at: Placement) -> tuple[nn.Conv2d, ...]:
        """Return the convolutions; the first dilation holds up to the strided one (see `place`)."""
        convs = []
        for i, kernel in enumerate(self.kernels):
            last = i == len(self.kernels) - 1
            out_channels = width * self.expansion if last else round(width * self.inner_ratio)
            dilation = at.first_dilation if i <= self.strided else at.dilation
            convs.append(
                nn.Conv2d(
                    in_channels,
                    out_channels,
                    kernel,
                    stride=at.stride if i == self.strided else 1,
                    padding=dilation * (kernel // 2),
                    dilation=dilation if kernel > 1 else 1,
                    groups=self.groups if kernel > 1 else 1,
                    bias=False,
                )
            )
            in_channels = out_channels
        return tuple(convs)


basic = Convs((3, 3))

# Stride on the 3x3 ("v1.5"): what public weights expect; the paper strides the first 1x1.
bottleneck = Convs((1, 3, 1), strided=1, expansion=4)
bottleneck_v1 = Convs((1, 3, 1), strided=0, expansion=4)


class PostActBlock(nn.Module):
    """A residual block with norm and activation after each convolution, and the last activation after the sum.

    arXiv:1512.03385, figure 2. (N, C, H, W) -> (N, C', ceil(H / stride), ceil(W / stride)).
    """

    def __init__(
        self, convs: Sequence[nn.Conv2d], shortcut: nn.Module, norm: Norm, drop_path: nn.Module, dropout: float
    ) -> None:
        super().__init__()
        for i, conv in enumerate(convs, start=1):
            self.add_module(f"conv{i}", conv)
            self.add_module(f"bn{i}", norm(conv.out_channels))
        self.hops = len(convs)
        self.downsample = shortcut
        self.relu = nn.ReLU(inplace=True)
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        self.drop_path = drop_path

    @property
    def last_norm(self) -> nn.Module:
        norm: nn.Module = getattr(self, f"bn{self.hops}")
        return norm

    def forward(self, x: Tensor) -> Tensor:
        out = x
        for i in range(1, self.hops + 1):
            out = convolve(getattr(self, f"conv{i}"), getattr(self, f"bn{i}"), out)
            if i < self.hops:
                out = self.dropout(self.relu(out))
        joined: Tensor = self.relu(self.drop_path(out) + self.downsample(x))
        return joined

    def skip(self, x: Tensor) -> Tensor:
        """Return what remains without the residual branch."""
        kept: Tensor = self.relu(self.downsample(x) + 0)  # + 0: an identity's x is the caller's, not to be overwritten
        return kept


class PreActBlock(nn.Module):
    """A residual block with norm and activation before each convolution, and nothing after the sum.

    arXiv:1603.05027, figure 1b. A shortcut that changes the shape takes the normalised and activated input.
    """

    def __init__(
        self, convs: Sequence[nn.Conv2d], shortcut: nn.Module, norm: Norm, drop_path: nn.Module, dropout: float
    ) -> None:
        super().__init__()
        for i, conv in enumerate(convs, start=1):
            self.add_module(f"norm{i}", norm(conv.in_channels))
            self.add_module(f"conv{i}", conv)
        self.hops = len(convs)
        self.downsample = shortcut
        self.reshapes = not isinstance(shortcut, nn.Identity)
        self.relu = nn.ReLU(inplace=True)
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        self.drop_path = drop_path

    def enter(self, x: Tensor) -> Tensor:
        """Return the input, normalised and activated."""
        active: Tensor = self.relu(getattr(self, "norm1")(x))  # noqa: B009  # added by number
        return active

    def forward(self, x: Tensor) -> Tensor:
        active = self.enter(x)
        out = active
        for i in range(1, self.hops):
            normed = convolve(getattr(self, f"conv{i}"), getattr(self, f"norm{i + 1}"), out)
            out = self.dropout(self.relu(normed))
        out = getattr(self, f"conv{self.hops}")(out)
        joined: Tensor = self.drop_path(out) + (self.downsample(active) if self.reshapes else x)
        return joined

    def skip(self, x: Tensor) -> Tensor:
        """Return what remains without the residual branch."""
        kept: Tensor = self.downsample(self.enter(x)) if self.reshapes else x
        return kept


class EnteredPreActBlock(PreActBlock):
    """The same after a norm and activation that others share: its input is normalised and activated already."""

    def __init__(
        self, convs: Sequence[nn.Conv2d], shortcut: nn.Module, norm: Norm, drop_path: nn.Module, dropout: float
    ) -> None:
        super().__init__(convs, shortcut, norm, drop_path, dropout)
        del self.norm1

    def enter(self, x: Tensor) -> Tensor:
        return x


# --- what is tapped after a stage ----------------------------------------------------------------------------------


def as_it_is(step: Step, norm: Norm) -> tuple[Step, ...]:
    """Tap a stage's output: it is activated."""
    return (step,)


def normalised(step: Step, norm: Norm) -> tuple[Step, ...]:
    """Tap a stage's sum after a norm and activation: those that the next stage begins with, or the network ends with.

    They are computed once for both, and belong to the stage that they show.
    """
    assert step.feature is not None
    level, channels = step.feature.name[1:], step.feature.channels
    return (
        replace(step, feature=None),
        Step(f"norm{level}", norm(channels), step.stage),
        Step(f"relu{level}", nn.ReLU(inplace=True), step.stage, step.feature),
    )


def raw(step: Step, norm: Norm) -> tuple[Step, ...]:
    """Tap a stage's sum as it is, not normalised, as timm does; norm and activation follow."""
    _, normed, activated = normalised(step, norm)
    return (step, normed, replace(activated, feature=None))


Tap = Callable[[Step, Norm], tuple[Step, ...]]


# --- how the branches join -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Join:
    """Where norm and activation sit: the block, the block after an input that is activated, and what a stage shows."""

    block: type[nn.Module]
    entered: type[nn.Module]
    tap: Tap


post_activation = Join(PostActBlock, PostActBlock, as_it_is)
pre_activation = Join(PreActBlock, EnteredPreActBlock, normalised)
pre_activation_raw = Join(PreActBlock, EnteredPreActBlock, raw)
