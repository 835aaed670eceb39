"""The one error for what a caller can mend: every message says what came, what is allowed and what to do."""

from collections.abc import Iterable
from difflib import get_close_matches


class InputError(ValueError):
    """An argument, a file or a setting is wrong; the command line prints it as one line and exits with status 2."""


def unknown(kind: str, name: str, known: Iterable[str], see: str = "") -> InputError:
    """Return the error for a name that is not among the known ones, with the nearest of them.

    `see` says where all are listed, when they are too many to print.
    """
    names = sorted(known)
    nearest = get_close_matches(name, names, n=1)
    hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
    return InputError(f"unknown {kind} {name!r}.{hint} {see or 'Known: ' + ', '.join(names)}.")
