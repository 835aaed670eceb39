"""Which options of a command go together, where it can be used in several ways."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Way:
    """One way to use a command: how it is typed, the options that it needs, and those that it takes beside them."""

    typed: str
    needs: tuple[str, ...]
    takes: tuple[str, ...] = ()


def check_ways(ways: Sequence[Way], options: Sequence[str]) -> None:
    """Refuse options that are not of one way; they must be all that it needs, and no more than it takes."""
    # Here, so that --help need not wait for torch.
    from ..backbones import InputError

    complete = [way for way in ways if set(way.needs) <= set(options)]
    if not complete:
        came = f"; only {', '.join(options)} came" if options else ""
        raise InputError(f"name {', or '.join(way.typed for way in ways)}{came}")
    way = complete[0]
    extra = [name for name in options if name not in (*way.needs, *way.takes)]
    if extra:
        takers = " or ".join(other.typed for other in ways if extra[0] in other.takes)
        hint = f"; {extra[0]} goes with {takers}" if takers else ""
        raise InputError(f"{', '.join(extra)} cannot go with {way.typed}{hint}")
