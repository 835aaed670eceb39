"""Where what can be made again is kept: a folder of this user's, safe to delete whenever nothing runs."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """Return $XDG_CACHE_HOME/vertebra, by default ~/.cache/vertebra; it need not exist yet."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vertebra"
