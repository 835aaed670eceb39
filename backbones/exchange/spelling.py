"""How other frameworks name what our networks hold: (pattern, replacement) pairs from our keys to theirs.

One table serves both directions: theirs to ours is the same list of keys, read the other way.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ..contract import Backbone
from ..registry import row

Pairs = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Spelling:
    """A way to name tensors.

    title: whose it is. folds: norms are scale and shift alone, their statistics are folded into them. heads: what keys
    of a classifier begin with, beside those that the backbone itself may drop. own: a pattern of the keys of the
    network where other parts of a model stand beside them without a prefix.
    """

    title: str
    pairs: Pairs = ()
    folds: bool = False
    heads: tuple[str, ...] = ()
    own: str = ""

    def keys(self, network: Backbone) -> dict[str, str]:
        """Return {their key: our key} for every tensor but the counters of batches, which no framework needs."""
        return {self.spell(key): key for key in network.state_dict() if not key.endswith("num_batches_tracked")}

    def spell(self, key: str) -> str:
        for pattern, replacement in self.pairs:
            key = re.sub(pattern, replacement, key)
        return key

    def belongs(self, key: str) -> bool:
        """Say whether a key without its prefix must be one of the network's own."""
        return re.match(self.own, key) is not None


_D2_BLOCKS = (
    (r"\.bn(\d)\.", r".conv\1.norm."),
    (r"\.downsample\.0\.", ".shortcut."),
    (r"\.downsample\.1\.", ".shortcut.norm."),
    *((rf"^layer{i}\.", f"res{i + 1}.") for i in range(1, 5)),
)
_D2 = ((r"^conv1\.", "stem.conv1."), (r"^bn1\.", "stem.conv1.norm."), *_D2_BLOCKS)
_D2_DEEP = (
    *((rf"^conv1\.{3 * i}\.", f"stem.conv{i + 1}.") for i in range(3)),
    *((rf"^conv1\.{3 * i + 1}\.", f"stem.conv{i + 1}.norm.") for i in range(2)),
    (r"^bn1\.", "stem.conv3.norm."),
    *_D2_BLOCKS,
)
_CAFFE2 = (
    *_D2,
    (r"^stem\.conv1\.norm\.", "res.conv1.norm."),
    (r"^stem\.", ""),
    (r"\.shortcut\.", ".branch1."),
    *((rf"^(res\d\.\d+\.)conv{i}\.", rf"\1branch2{letter}.") for i, letter in enumerate("abc", 1)),
    (r"\.norm\.weight$", ".bn.s"),
    (r"\.norm\.bias$", ".bn.b"),
    (r"\.norm\.running_mean$", ".bn.rm"),
    (r"\.norm\.running_var$", ".bn.riv"),
    (r"\.weight$", ".w"),
    (r"\.", "_"),
)
_MMDET_DEEP = ((r"^conv1\.", "stem."), (r"^bn1\.", "stem.7."))
_TIMM_PREACTIVATION = (
    (r"^conv1\.", "stem.conv."),
    *((rf"^norm{i}\.", f"stages.{i - 1}.blocks.0.norm1.") for i in (2, 3, 4)),
    (r"^norm5\.", "norm."),
    *((rf"^layer{i}\.", f"stages.{i - 1}.blocks.") for i in range(1, 5)),
    (r"\.downsample\.", ".downsample.conv."),
)
_DENSENET = (
    (r"^transition(\d)\.0\.", r"transition\1.conv."),
    *((rf"^norm{i}\.", f"transition{i - 1}.norm.") for i in (2, 3, 4)),
    (r"^", "features."),
)
# What torchvision's published files have; its code renames them when it loads them.
_DENSENET_OF_2017 = ((r"(\.denselayer\d+\.(?:norm|conv))(\d)\.", r"\1.\2."), *_DENSENET)


def _vgg(name: str) -> Pairs:
    """Count torchvision's flat list: convolution, norm if there is one, ReLU, and a pool after each block."""
    found = row(name)
    parts = 2 if found.norms else 1
    pairs, index = [], 0
    for block, depth in enumerate(found.depths, 1):
        for i in range(depth):
            pairs += [(rf"^block{block}\.{i}\.{j}\.", f"features.{index + j}.") for j in range(parts)]
            index += parts + 1
        index += 1
    return tuple(pairs)


def _are(*spellings: Spelling) -> Callable[[str], tuple[Spelling, ...]]:
    return lambda name: spellings


def _flat(title: str) -> Callable[[str], tuple[Spelling, ...]]:
    return lambda name: (Spelling(title, _vgg(name)),)


# By framework and kind of network (`structure.kind`): the spelling that is written comes first.
SPELLINGS: Mapping[str, Mapping[str, Callable[[str], tuple[Spelling, ...]]]] = {
    "detectron2": {
        "plain": _are(
            Spelling("detectron2", _D2),
            # The convolution of the stem has a bias in MSRA's files, which neither Detectron applies.
            Spelling("Caffe2", _CAFFE2, True, ("fc1000_", "pred_", "conv1_b"), r"conv1_|res_conv1_|res\d_\d+_branch"),
        ),
        "deep": _are(Spelling("detectron2", _D2_DEEP)),
    },
    "mmdet": {"plain": _are(Spelling("mmdet")), "deep": _are(Spelling("mmdet", _MMDET_DEEP))},
    "torchvision": {
        "plain": _are(Spelling("torchvision")),
        "densenet": _are(Spelling("torchvision", _DENSENET), Spelling("torchvision", _DENSENET_OF_2017)),
        "vgg": _flat("torchvision"),
    },
    "timm": {
        "plain": _are(Spelling("timm")),
        "deep": _are(Spelling("timm")),
        "preactivation": _are(Spelling("timm", _TIMM_PREACTIVATION)),
        "densenet": _are(Spelling("timm", _DENSENET)),
        "vgg": _flat("timm"),
    },
}
