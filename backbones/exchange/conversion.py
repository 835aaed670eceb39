"""A conversion: read, compared with the frameworks' own networks, and only then written."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ..contract import Backbone
from ..errors import InputError, unknown
from ..weights import recorded_norm_eps, recorded_preprocessing
from .comparing import TOLERANCE, difference, eps_of
from .detectron2 import EPS
from .files import write
from .framework import Framework
from .pixels import Channels, Three, Told
from .reading import FRAMEWORKS, OURS, Reading, read_backbone
from .spelling import Spelling

SUFFIXES: Mapping[str, tuple[str, ...]] = {OURS: (".pth", ".pt"), **{n: f.suffixes for n, f in FRAMEWORKS.items()}}


@dataclass(frozen=True)
class Conversion:
    """What a conversion read and wrote.

    compared: for each framework on either side, the largest relative difference of a feature to its own network's, or
    why it was not compared. advice: what to write where the file is used. notes: what else is to be known.
    """

    reading: Reading
    target: Path
    to: str
    written: tuple[str, ...]
    compared: Mapping[str, float | str]
    advice: tuple[str, ...]
    notes: tuple[str, ...]

    def lines(self) -> list[str]:
        """Say it in words."""
        read = self.reading
        at = f", at {read.prefix}*" if read.prefix else ""
        lines = [f"read: {read.name} in the keys of {read.layout}, {len(read.state)} tensors{at}"]
        if read.dropped:
            lines.append(f"left out: {_summed(read.dropped)}")
        if read.pixels is not None:
            lines.append(f"its images: {read.pixels}")
            if read.pixels.channels == "bgr":
                lines.append("the input channels of the first convolution were reversed: from here on images are RGB")
        lines += self.notes
        for name, found in self.compared.items():
            lines.append(
                f"not compared with {name}'s own network: {found}"
                if isinstance(found, str)
                else f"features equal those of {name}'s own network: they differ by {found:.1e} at most (float64)"
            )
        lines.append(f"wrote: {self.target}, {len(self.written)} tensors for {self.to}")
        return [*lines, *self.advice]


def convert(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    backbone: str,
    *,
    layout: str | None = None,
    to: str = OURS,
    channels: Channels | None = None,
    mean: Three | None = None,
    std: Three | None = None,
    eps: float | None = None,
    prefix: str | None = None,
) -> Conversion:
    """Read the weights of a backbone, of whatever framework, and write them for another.

    source: a file, or one of our runs; of a detector its backbone is taken. layout: whose keys it has (detectron2,
    mmdet, torchvision, timm, vertebra), found by the keys themselves where it is None. channels, mean and std: of the
    images of its network, in the units of its framework (0..255 for detectron2 and mmdet) and in the order of its
    channels; needed where neither the file nor the framework's habits say them. eps: of its norms, 1e-5 by default.
    prefix: of the backbone's keys where a file holds several.

    Raises InputError, and writes nothing, where tensors are missing or left over, where shapes differ, and where
    features differ from those of a framework's own network by more than 1e-6.
    """
    target = Path(target)
    if to not in SUFFIXES:
        raise unknown("framework", to, SUFFIXES)
    if target.suffix not in SUFFIXES[to]:
        why = ", which keeps mean, deviation and eps beside the tensors" if to == OURS else ""
        raise InputError(f"{target}: a file for {to} ends in {' or '.join(SUFFIXES[to])}{why}")
    if target.exists():
        raise InputError(f"{target} exists already; choose another name or remove it")
    if to != OURS:
        FRAMEWORKS[to].spellings(backbone)  # that it has such a network, before anything is read
    reading = read_backbone(source, backbone, layout=layout, given=Told(channels, mean, std), eps=eps, prefix=prefix)
    network, theirs = reading.network, FRAMEWORKS.get(to)
    compared: dict[str, float | str] = {}
    if reading.framework is not None and reading.spelling is not None and reading.pixels is not None:
        compared[reading.framework.name] = _compared(
            reading, reading.framework, reading.spelling, reading.state, eps_of(network), reading.pixels.channels
        )
    notes = list(reading.notes)
    if theirs is None:
        state = network.state_dict()
        eps_in_file = recorded_norm_eps(network)
        content: Mapping[str, Any] = {
            "model": state,
            "preprocessing": recorded_preprocessing(network),
            **({} if eps_in_file is None else {"norm_eps": eps_in_file}),
        }
        advice: tuple[str, ...] = (
            f"use: vertebra.create_backbone({backbone!r}, weights={str(target)!r})",
            f"it says what its images are: {_said(network)}",
        )
    else:
        spelling = theirs.spellings(backbone)[0]
        state = _spelled(network, spelling, notes)
        compared[to] = _compared(reading, theirs, spelling, state, EPS, "rgb")
        content = theirs.wrap(state, network.preprocessing)
        advice = (f"in {to}:", *theirs.advice(backbone, network.preprocessing, target))
    write(target, content)
    return Conversion(reading, target, to, tuple(state), compared, advice, tuple(notes))


def _compared(
    reading: Reading,
    framework: Framework,
    spelling: Spelling,
    state: Mapping[str, Tensor],
    eps: float | None,
    channels: Channels,
) -> float | str:
    """Return how far features are from those of the framework's own network; an InputError where it is too far."""
    try:
        found = difference(
            reading.network, reading.name, framework, spelling, state, eps=eps, reverses=channels == "bgr"
        )
    except ImportError as error:
        return f"it cannot be imported ({error})"
    if not found <= TOLERANCE:
        raise InputError(
            f"the features of {reading.name} differ from those of {framework.name}'s own network by {found:.1e} "
            f"(at most {TOLERANCE:.0e} is rounding), so nothing was written"
        )
    return found


def _spelled(network: Backbone, spelling: Spelling, notes: list[str]) -> dict[str, Tensor]:
    """Return a network's tensors under a framework's names, for norms that have its eps."""
    eps, own = eps_of(network), network.state_dict()
    state = {theirs: own[ours].clone() for theirs, ours in spelling.keys(network).items()}
    if eps is not None and eps != EPS:
        notes.append(f"eps of the norms was {eps:g}; the variances were changed by the difference to {EPS:g}")
        for theirs, ours in spelling.keys(network).items():
            if ours.endswith("running_var"):
                state[theirs] += eps - EPS
    return state


def _said(network: Backbone) -> str:
    mean, std = ([round(x, 6) for x in values] for values in (network.preprocessing.mean, network.preprocessing.std))
    return f"RGB in [0, 1], mean {mean}, std {std}, eps of norms {eps_of(network)}"


def _summed(keys: Iterable[str]) -> str:
    """Name parts of a model, with how many keys each has."""
    counters = sum(key.endswith("num_batches_tracked") for key in keys)
    parts = Counter(key.split(".")[0] for key in keys if not key.endswith("num_batches_tracked"))
    named = [f"{part} ({count})" if count > 1 else part for part, count in parts.items()]
    return ", ".join([*named, *([f"{counters} num_batches_tracked"] if counters else [])])
