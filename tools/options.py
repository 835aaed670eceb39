"""Command-line options that several verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Overrides = Annotated[
    list[str], typer.Option("--set", metavar="KEY=VALUE", help="Override a setting; may be repeated.")
]
Imports = Annotated[
    list[str], typer.Option("--import", metavar="MODULE|FILE.py", help="Import your own code first; may be repeated.")
]
Checkpoint = Annotated[Path | None, typer.Option(metavar="FILE", help="Another checkpoint of the same model.")]
Best = Annotated[
    bool, typer.Option("--best", help="The checkpoint with the best metric in training (best.pt), not the newest.")
]
Raw = Annotated[
    bool, typer.Option("--raw", help="The weights of the last step, where a run has a moving average of them too.")
]
DataRoot = Annotated[str | None, typer.Option(metavar="DIR", help="Where the data set is.")]
