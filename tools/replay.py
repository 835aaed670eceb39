"""`vertebra replay`: a batch that training could not learn from, once more, to see where it goes wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vertebra.tools.options import Imports, Overrides

if TYPE_CHECKING:
    from torch import nn

    from vertebra.tools.engine.arrival import Batch
    from vertebra.tools.engine.finiteness import Finding
    from vertebra.tools.run import Run

KEYS = ("step", "process", "losses", "image_ids", "images", "targets", "model")


def replay(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A batch that a run has saved: RUN/trouble/step_N.pt.")],
    overrides: Overrides = [],  # noqa: B006  # Typer's way to say "none"; it is never changed
    imports: Imports = [],  # noqa: B006
) -> None:
    """Compute a step that was skipped again, and name the first module whose output or gradient is not finite.

    With the weights, the images and the random numbers of that step, on the device and in the precision of the run;
    --set engine.device=cpu --set engine.precision=float32 shows whether it is for want of precision.
    """
    from rich.console import Console

    from vertebra.tools.run import open_run

    content = read_trouble(file)
    run = open_run(file.resolve().parent.parent, overrides, imports)
    lines = replayed(run, content)
    console = Console()
    console.print("\n".join(lines), highlight=False, markup=False, soft_wrap=True)


def read_trouble(path: Path) -> dict[str, Any]:
    """Read a batch that was saved; another file is an InputError."""
    from vertebra.backbones import InputError
    from vertebra.backbones.tensor_files import read_state

    if not path.is_file():
        raise InputError(f"no file at {path}; give a batch that a run has saved, as RUN/trouble/step_00000012.pt")
    content: Any = read_state(path)
    if not isinstance(content, Mapping) or not set(KEYS) <= set(content):
        raise InputError(f"{path} is no batch that a run has saved; give one of RUN/trouble/")
    return dict(content)


def replayed(run: Run, content: Mapping[str, Any]) -> list[str]:
    """Compute the step of a run again; return lines that say what came of it."""
    import torch

    from vertebra.tools.build import build_model, pick_device
    from vertebra.tools.engine.finiteness import odd_weights
    from vertebra.tools.engine.loop import step_seed
    from vertebra.tools.engine.precision import pick_precision

    config = run.config
    device = pick_device(config.engine.device)
    precision = pick_precision(config.engine.precision, device)
    precision.prepare()
    model = build_model(config, _categories(run))
    model.load_state_dict(content["model"])
    model.to(device).train()
    weights = odd_weights(model)
    torch.manual_seed(step_seed(config.engine.seed, content["step"] - 1, content["process"]))
    losses, findings = _step(model, _batch(content, device), config.optim.accumulation, precision.autocast(device))
    return [
        f"step {content['step']} of {run.folder}, on {device} in {precision.name}; image ids "
        f"{', '.join(map(str, content['image_ids']))}",
        f"losses then: {_named(content['losses'])}",
        f"losses now:  {_named(losses)}",
        *_table([*weights, *findings]),
    ]


def _categories(run: Run) -> int:
    """Return how many categories a run's model is for: of its checkpoint, or before there is one of its data."""
    from vertebra.tools.engine.checkpoint import read_checkpoint
    from vertebra.tools.sources import open_split

    if run.checkpoint.is_file():
        return len(read_checkpoint(run.checkpoint)["categories"])
    return len(open_split(run.config.data, "train", run.config.head.model.target_keys).categories)


def _batch(content: Mapping[str, Any], device: Any) -> Batch:
    """Return the images and targets on a device, with masks as the model takes them."""
    from vertebra.heads.boxed_masks import BoxedMasks

    def made(value: Any) -> Any:
        return (BoxedMasks(**value) if isinstance(value, Mapping) else value).to(device)

    targets = [{key: made(value) for key, value in target.items()} for target in content["targets"]]
    return [(image.to(device), target) for image, target in zip(content["images"], targets, strict=True)]


def _step(
    model: nn.Module, batch: Batch, accumulation: int, autocast: AbstractContextManager[Any]
) -> tuple[dict[str, float], list[Finding]]:
    """Go forward and backward through the parts of a batch; return the losses, and what is not finite first."""
    import torch

    from vertebra.tools.engine.finiteness import Watch, finite, found

    size = max(1, len(batch) // accumulation)
    parts = [batch[i : i + size] for i in range(0, len(batch), size)]
    total: Counter[str] = Counter()
    findings: list[Finding] = []
    for part in parts:
        watch = Watch(model)
        with watch.watching():
            with autocast:
                losses = model([image for image, _ in part], [target for _, target in part])
            torch.stack(list(losses.values())).sum().backward()  # type: ignore[no-untyped-call]
        total.update({name: float(loss.detach()) / len(parts) for name, loss in losses.items()})
        odd = [found("loss", name, "", loss.detach()) for name, loss in losses.items() if not finite(loss)]
        findings = findings or [finding for finding in (watch.output, *odd, watch.gradient) if finding is not None]
    return dict(total), findings


def _named(losses: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.6g}" for name, value in losses.items())


def _table(findings: list[Finding]) -> list[str]:
    """Return what is not finite, in the order in which it came about, or that all is finite."""
    from vertebra.tools.evaluation.table import table

    if not findings:
        return [
            "all is finite: weights, outputs, losses and gradients; what went wrong then lies in what is not the same "
            "now: the device, its precision, or the share of another process"
        ]
    rows = [(f"{f.what} {f.name}", f.kind, f"{f.share:.2%}", f"{f.largest:.3g}", _given(f)) for f in findings]
    return ["first that is not finite:", *table(("", "module", "not finite", "else up to", "inputs up to"), rows)]


def _given(finding: Finding) -> str:
    if finding.given is None:
        return "-"
    return "not finite" if finding.given != finding.given else f"{finding.given:.3g}"


if __name__ == "__main__":
    from vertebra.tools.cli import run as run_command

    run_command(lambda: typer.run(replay))
