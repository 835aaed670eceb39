"""`vertebra export`: a run's model as a file that other programs run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vertebra.tools.options import Best, Checkpoint, Imports, Overrides, Raw

if TYPE_CHECKING:
    from torch import nn

    from vertebra.tools.data.sets import Category
    from vertebra.tools.exporting.description import Description
    from vertebra.tools.run import Run


def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.")],
    format: Annotated[str, typer.Option(metavar="onnx|torch-export", help="What to write.")] = "onnx",
    output: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Where to; by default RUN/model.onnx or RUN/model.pt2.")
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(metavar="HxW", help="Fix the size of padded images; by default any multiples of 32."),
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Fix how many images go in at once; by default any number.")
    ] = None,
    checkpoint: Checkpoint = None,
    best: Best = False,
    raw: Raw = False,
    overrides: Overrides = [],  # noqa: B006
    imports: Imports = [],  # noqa: B006
) -> None:
    """Write a run's model as ONNX, for onnxruntime, or for torch.export.load, and check that it finds the same.

    It takes `images` (N, 3, H, W), float in [0, 1], padded at the right and below, and `sizes` (N, 2), the height and
    width of what is image in each; a classifier takes images alone. Detectors give `boxes` (N, D, 4) in pixels of the
    input, `scores`, `labels` and `valid` (N, D), and perhaps `masks` (N, D, M, M), probabilities in the boxes;
    segmenters `semantic` (N, H, W) and `logits`; classifiers `scores` (N, K). The file says which classes it knows and
    how images are resized; docs/export.md has a program that needs no more than onnxruntime.
    """
    from time import perf_counter

    from rich.console import Console

    from vertebra.tools.exporting.files import FORMATS, require
    from vertebra.tools.exporting.tracing import trace
    from vertebra.tools.run import chosen_checkpoint, open_run, trained_model

    console = Console()
    form = FORMATS[_known(format)]
    path = _writable(output or run / f"model{form.suffix}", form.suffix, format)
    fixed = None if size is None else _size(size)
    require(form.needs, f"--format {format}")
    opened = open_run(run, overrides, imports)
    model, categories = trained_model(opened, chosen_checkpoint(opened, checkpoint, best), raw)
    began = perf_counter()
    folded = _folded(model)
    about = _description(opened, folded, categories, fixed, batch_size)
    program = trace(folded, form.suppress, channels=about.channels, size=fixed, batch_size=batch_size)
    form.write(program, about, path)
    seconds = perf_counter() - began
    sides = size or ("any multiples of 32" if "sizes" in about.inputs else "any size")
    console.print(
        f"{path}: {path.stat().st_size / 2**20:.1f} MiB in {seconds:.0f} s\n"
        f"inputs: {', '.join(about.inputs)}, of {batch_size or 'any number of'} images, {sides} pixels\n"
        f"outputs: {', '.join(about.outputs)}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
    _check(path, model, opened, about, console)


def _known(format: str) -> str:
    from vertebra.backbones.errors import unknown
    from vertebra.tools.exporting.files import FORMATS

    if format not in FORMATS:
        raise unknown("format", format, FORMATS)
    return format


def _writable(path: Path, suffix: str, format: str) -> Path:
    from vertebra.backbones import InputError

    if path.suffix != suffix:
        raise InputError(f"--output {path}: the name of a file of --format {format} ends in {suffix}")
    if not path.parent.is_dir():
        raise InputError(f"--output {path}: there is no folder {path.parent}; make it first")
    return path


def _size(text: str) -> tuple[int, int]:
    """Return (height, width) of `800x1344`."""
    from vertebra.backbones import InputError

    height, _, width = text.lower().partition("x")
    if not (height.isdecimal() and width.isdecimal() and int(height) and int(width)):
        raise InputError(f"--size {text}: height x width in pixels is expected, such as 800x1344")
    return int(height), int(width)


def _folded(model: nn.Module) -> nn.Module:
    """Return a copy for inference, whose norms are folded into convolutions."""
    from copy import deepcopy

    from vertebra.backbones.folding import fold_norms_

    folded: nn.Module = fold_norms_(deepcopy(model))
    return folded.requires_grad_(False)


def _description(
    run: Run, model: nn.Module, categories: tuple[Category, ...], size: tuple[int, int] | None, batch_size: int | None
) -> Description:
    from typing import Any

    from vertebra.backbones import InputError
    from vertebra.heads.export import exportable
    from vertebra.heads.export_suppression import by_torchvision
    from vertebra.heads.images import PAD_MULTIPLE
    from vertebra.tools.exporting.description import Description

    traced, given = exportable(model, by_torchvision), model.__dict__
    pad_to: tuple[tuple[int, int], ...] = tuple(map(tuple, given.get("pad_to", ())))
    if given.get("test_flip") or given.get("test_scales", (1.0,)) != (1.0,):
        raise InputError(
            "the run averages several passes at test time, and an exported file has one: export with --set "
            "head.test_scales=[1.0] --set head.test_flip=false"
        )
    odd = [shape for shape in pad_to if any(side % PAD_MULTIPLE for side in shape)]
    if odd and size is None:
        raise InputError(f"head.pad_to has {odd[0]}, which is no multiple of 32: give --size, one of these shapes")
    resize: Any = given["test_size"]
    channels = run.config.data.channels or 3
    return Description(
        head=run.config.choices.head,
        backbone=run.config.choices.backbone,
        finds=tuple(run.config.head.model.target_keys),
        first_label=run.config.head.model.first_label,
        categories=tuple((category.id, category.name) for category in categories),
        channels=channels,
        resize=None if resize is None else tuple(resize),
        pad_to=pad_to,
        size=size,
        batch_size=batch_size,
        inputs=traced.inputs,
        outputs=traced.outputs,
    )


def _check(path: Path, model: nn.Module, run: Run, about: Description, console: object) -> None:
    """Run the file and the model on the same two images, and say how far apart they are."""
    import logging
    from typing import Any

    import torch

    from vertebra.tools.exported import ExportedModel
    from vertebra.tools.exporting.checking import difference, example_image

    image, name = example_image(run.config.data, about.finds, about.channels)
    images = [image, image.flip(-1)]
    printed: Any = console
    with torch.inference_mode():
        expected = model(images)
        same, text = difference(expected, ExportedModel(path)(images))
    printed.print(f"against the model, on {name} and its mirror image: {text}", highlight=False, soft_wrap=True)
    if not same:
        logging.getLogger("vertebra").warning("%s does not find what the model finds; measure it before use", path)


if __name__ == "__main__":
    from vertebra.tools.cli import run as run_command

    run_command(lambda: typer.run(export))
