"""`vertebra backbones`: what the registry holds."""

from __future__ import annotations

from typing import Annotated

import typer

from vertebra.tools.options import Imports

app = typer.Typer(help="What the registry of backbones holds.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """What the registry of backbones holds."""  # a callback keeps `list` a command of its own while it is the only one


@app.command("list")
def list_(
    pattern: Annotated[str, typer.Argument(help="Shell pattern of names, such as 'resnet*'.")] = "*",
    imports: Imports = [],  # noqa: B006
) -> None:
    """List backbones with their parameters and features (channels at stride)."""
    import torch
    from rich.console import Console
    from rich.table import Table

    from vertebra.backbones import InputError, create_backbone, list_backbones
    from vertebra.tools.build import import_modules

    import_modules(imports)
    names = list_backbones(pattern)
    if not names:
        raise InputError(f"no backbone matches {pattern!r}; without a pattern all are listed")
    table = Table("name", box=None)
    table.add_column("parameters", justify="right")
    table.add_column("features")
    for name in names:
        with torch.device("meta"):
            backbone = create_backbone(name)
        parameters = sum(parameter.numel() for parameter in backbone.parameters())
        features = "  ".join(f"{i.name} {i.channels}@{i.stride}" for i in backbone.feature_info)
        table.add_row(name, f"{parameters:,}", features)
    Console().print(table)


if __name__ == "__main__":
    from vertebra.tools.cli import run

    run(app)
