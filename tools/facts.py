"""Facts of backbones: parameters, multiply-adds and features; as recorded for our own names, counted for others."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ..backbones.names import TIMM, installed, matching

# Counting all names takes a minute, and torch some seconds to load, so what the registry's own come to is kept; a test
# counts them again.
BEGIN, END = "<!-- models: written by `make readme` -->\n", "<!-- end of models -->\n"
RECORDED = Path(__file__).with_name("facts.json")

# Once it is loaded, more may have been registered.
_REGISTRY = "vertebra.backbones.registry"


@dataclass(frozen=True)
class Facts:
    """A backbone in figures. Parameters and multiply-adds are without and with the classifier that it is known for.

    multiply_adds are for one image of `size` x `size` pixels. features: (name, channels, stride). weights: tags of
    public ones, best first, and the best ImageNet top-1 among them in per cent.
    """

    name: str
    parameters: int
    with_classifier: int
    size: int
    multiply_adds: int
    features: tuple[tuple[str, int, int], ...]
    weights: tuple[str, ...] = ()
    top1: float | None = None


@dataclass(frozen=True)
class StageFacts:
    """One step of a network: its name and type, what comes out of it, and what it costs."""

    name: str
    kind: str
    blocks: int
    channels: int
    height: int
    width: int
    feature: str | None
    parameters: int
    multiply_adds: int


@cache
def recorded() -> dict[str, Facts]:
    """Return the recorded facts of the registry's own names."""
    return {row["name"]: _from_json(row) for row in json.loads(RECORDED.read_text())} if RECORDED.is_file() else {}


def _from_json(row: dict[str, Any]) -> Facts:
    features = tuple((name, channels, stride) for name, channels, stride in row.pop("features"))
    return Facts(**{**row, "features": features, "weights": tuple(row["weights"])})


def facts(name: str) -> Facts:
    """Return a backbone's facts: recorded ones for our own names, counted for others."""
    if name in recorded():
        return recorded()[name]
    from .counting import measure

    return measure(name)


def listed(pattern: str) -> list[Facts]:
    """Return the facts of the registered names that match a shell pattern, as `list_backbones` lists them.

    Where those are recorded ones alone, neither torch nor the registry is loaded.
    """
    own = recorded()
    names = matching({*own, *installed()}, pattern)
    if _REGISTRY in sys.modules or pattern.startswith(TIMM) or not own or not own.keys() >= {*names}:
        from ..backbones import list_backbones

        names = list_backbones(pattern)
    return [facts(name) for name in names]


def to_json(rows: Sequence[Facts | StageFacts]) -> str:
    """Return rows as JSON, one to a line."""
    return "[\n" + ",\n".join(json.dumps(asdict(row)) for row in rows) + "\n]\n"


def record(readme: Path) -> None:
    """Count the registry's own names again, and write the file and the README's table."""
    from ..backbones import list_backbones
    from .catalogue import markdown
    from .counting import measure

    rows = [measure(name) for name in list_backbones()]
    RECORDED.write_text(to_json(rows))
    before, rest = readme.read_text().split(BEGIN)
    readme.write_text(before + BEGIN + markdown(rows) + END + rest.split(END)[1])


if __name__ == "__main__":
    record(Path(sys.argv[1]))
