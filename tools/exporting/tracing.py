"""From a model to a traced program, for a batch and sizes that stay open or are fixed."""

from __future__ import annotations

import re
import warnings
from typing import Any

import torch
from torch import nn
from torch.export import Dim, ExportedProgram

from ...backbones import InputError
from ...heads.export import exportable
from ...heads.export_suppression import Suppression
from ...heads.images import PAD_MULTIPLE

Size = tuple[int, int]

# What torch.export says where it took a size for no 0 and no 1.
GUESS = re.compile(r"expression (Ne\(|u\d+ >= 2)")

# What is traced where sizes stay open: both sides differ, so that they cannot be taken for one.
EXAMPLE = (5 * PAD_MULTIPLE, 6 * PAD_MULTIPLE)


def trace(
    model: nn.Module, suppress: Suppression, *, channels: int, size: Size | None, batch_size: int | None
) -> ExportedProgram:
    """Trace a model in the form of `heads.export`; weights are shared.

    size: (H, W) of all images to come; None for any multiples of 32, of a classifier for any. batch_size: how many
    there will be; None for any number.
    """
    module = exportable(model, suppress).eval()
    count, (height, width) = batch_size or 2, size or EXAMPLE
    examples = (torch.zeros(count, channels, height, width), torch.tensor([[height, width]] * count))
    arguments = examples[: len(module.inputs)]
    batch = {} if batch_size else {0: Dim("batch")}
    sides = {} if size else _open_sides("sizes" in module.inputs)
    shapes: dict[str, Any] = {"images": {**batch, **sides}, "sizes": batch}
    shapes = {name: shapes[name] for name in module.inputs}
    error: Exception | None = None
    # Strict tracing takes twice as long, but knows the length of a tensor as a number that stays open.
    for strict in (False, True):
        try:
            return _without_guesses(_traced(module, arguments, shapes, strict))
        except (torch._dynamo.exc.UserError, torch._dynamo.exc.TorchDynamoException, RuntimeError) as raised:
            error = raised
    advice = (
        "give --size and --batch-size, as what is fixed is easier to trace" if batch or sides else "no way is known"
    )
    first = next(iter(str(error).strip().splitlines()), "")
    raise InputError(f"torch.export cannot trace this model ({first}); {advice}") from error


def _open_sides(padded: bool) -> dict[int, Any]:
    height, width = Dim("height"), Dim("width")
    return {2: PAD_MULTIPLE * height, 3: PAD_MULTIPLE * width} if padded else {2: height, 3: width}


def _traced(module: nn.Module, arguments: tuple[Any, ...], shapes: dict[str, Any], strict: bool) -> ExportedProgram:
    # One image, and maps of one cell, are to go through what two were traced with.
    config: Any = torch.fx.experimental._config
    with (
        torch.no_grad(),
        config.patch(backed_size_oblivious=True),
        warnings.catch_warnings(action="ignore"),  # of libraries about each other
    ):
        return torch.export.export(
            module,
            arguments,
            dynamic_shapes=shapes,
            strict=strict,
            prefer_deferred_runtime_asserts_over_guards=True,
        )


def _without_guesses(program: ExportedProgram) -> ExportedProgram:
    """Take out checks that something is not 0 or 1, which tracing assumes of layouts; operators work with these too."""
    graph = program.graph_module.graph
    for node in list(graph.nodes):
        if node.target is torch.ops.aten._assert_scalar.default and GUESS.search(str(node.args[1])):
            graph.erase_node(node)
    graph.eliminate_dead_code()
    program.graph_module.recompile()
    return program
