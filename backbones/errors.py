"""The one error for what a caller can mend: every message says what came, what is allowed and what to do."""

from collections.abc import Iterable
from difflib import SequenceMatcher, get_close_matches


class InputError(ValueError):
    """An argument, a file or a setting is wrong; the command line prints it as one line and exits with status 2."""


def unknown(kind: str, name: str, known: Iterable[str], see: str = "") -> InputError:
    """Return the error for a name that is not among the known ones, with the nearest of them.

    `see` says where all are listed, when they are too many to print.
    """
    names = sorted(known)
    # Of equally near names the first: resnet50, not resnet56, for resnet5O.
    near = sorted(get_close_matches(name, names, n=5))
    nearest = max(near, key=lambda known: SequenceMatcher(None, known, name).ratio(), default=None)
    hint = f" Did you mean {nearest!r}?" if nearest else ""
    return InputError(f"unknown {kind} {name!r}.{hint} {see or 'Known: ' + ', '.join(names)}.")
