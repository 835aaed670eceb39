"""`vertebra evaluate`: measure a run, a public model, or the predictions of any program."""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vertebra.tools.options import Best, Checkpoint, DataRoot, Imports, Overrides, Raw
from vertebra.tools.ways import Way, check_ways

if TYPE_CHECKING:
    from vertebra.tools.subjects import Subject

OF_DETECTIONS = ("--max-dets", "--boundary", "--reference")
OF_MODELS = ("--data", "--data-root", "--split", "--set", "--import", "--against", *OF_DETECTIONS)
WAYS = (
    Way("the folder of a run", ("RUN",), ("--checkpoint", "--best", "--raw", *OF_MODELS)),
    Way("--weights torchvision/MODEL", ("--weights",), OF_MODELS),
    Way("--exported FILE with --data NAME", ("--exported", "--data"), ("--data-root", "--split", *OF_DETECTIONS)),
    Way(
        "--predictions FILE with --annotations FILE",
        ("--predictions", "--annotations"),
        ("--images", "--against", *OF_DETECTIONS),
    ),
    Way("--predictions DIR with --labels DIR", ("--predictions", "--labels"), ("--names",)),
)

# So many images does a comparison print; its file has all.
CHANGED = 10


def evaluate(
    run: Annotated[Path | None, typer.Argument(metavar="[RUN]", help="Folder of a run.")] = None,
    weights: Annotated[
        str | None,
        typer.Option(metavar="torchvision/MODEL", help="Instead of a run: a public model; by default on COCO."),
    ] = None,
    exported: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Instead of a run: what `vertebra export` wrote, on --data.")
    ] = None,
    predictions: Annotated[
        Path | None,
        typer.Option(metavar="FILE|DIR", help="Instead of a run: COCO results (JSON) or label PNGs of any program."),
    ] = None,
    data: Annotated[
        str | None, typer.Option(metavar="NAME|FILE.yaml", help="Another data set with the same categories.")
    ] = None,
    data_root: DataRoot = None,
    split: Annotated[str | None, typer.Option(help="Split to evaluate on: val (the default), train or test.")] = None,
    checkpoint: Checkpoint = None,
    best: Best = False,
    raw: Raw = False,
    overrides: Overrides = [],  # noqa: B006
    imports: Imports = [],  # noqa: B006
    annotations: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The instances JSON that the results of --predictions are for.")
    ] = None,
    images: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The images of --annotations, for the report's pictures.")
    ] = None,
    labels: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The true label PNGs of --predictions, by the same names.")
    ] = None,
    names: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Names of the classes of --labels, one in each line.")
    ] = None,
    max_dets: Annotated[
        str | None,
        typer.Option(metavar="N,…", help="Detections of an image that count, ascending; by default 1,10,100."),
    ] = None,
    boundary: Annotated[bool, typer.Option("--boundary", help="Of masks Boundary AP too.")] = False,
    reference: Annotated[
        bool, typer.Option("--reference", help="By pycocotools: the same numbers, several times slower.")
    ] = False,
    against: Annotated[
        Path | None,
        typer.Option(metavar="RUN|FILE", help="Compare with another run, or other results, on the same images."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where to write; of a run by default its folder.")
    ] = None,
    no_report: Annotated[bool, typer.Option("--no-report", help="Write no report.")] = False,
) -> None:
    """Evaluate a run or a public model on held-out images, or the predictions of any program.

    Of detectors COCO's numbers are printed, of segmenters mean IoU and more by class, of classifiers top-1 and top-5
    accuracy. The folder gets metrics.json and pictures, of detectors predictions.json in COCO's results format, of the
    others the confusion matrix; and beside it a report, report/index.html, one page that shows where the errors are.
    Predictions are only measured and printed, but with --output they get such a folder too.

    --against evaluates a second run, or other results, on the same images, and says whether the difference is more than
    chance: its 95 % interval over images drawn anew, and the images that changed most.
    """
    from rich.console import Console

    from vertebra.backbones import InputError
    from vertebra.tools.evaluation.coco import CocoEvaluator
    from vertebra.tools.evaluation.comparison import compare, comparison_text
    from vertebra.tools.run_report import write_measurement_report
    from vertebra.tools.subjects import LabelPngs, Results, Wish

    options = {
        "RUN": run, "--weights": weights, "--exported": exported, "--predictions": predictions, "--data": data,
        "--data-root": data_root, "--split": split, "--checkpoint": checkpoint, "--best": best, "--raw": raw,
        "--set": overrides, "--import": imports, "--annotations": annotations, "--images": images, "--labels": labels,
        "--names": names, "--max-dets": max_dets, "--boundary": boundary, "--reference": reference,
        "--against": against,
    }  # fmt: skip
    chosen = [name for name, value in options.items() if value]
    check_ways(WAYS, chosen)
    console = Console()
    evaluator = partial(CocoEvaluator, max_dets=_numbers(max_dets), boundary=boundary, reference=reference)
    wish = Wish(
        data, data_root, split or "val", checkpoint, best, raw, overrides, imports, evaluator, console,
        of_detections=[name for name in OF_DETECTIONS if name in chosen],
    )  # fmt: skip
    subject: Subject
    other: Subject | None = None
    folders: tuple[Path, Path] | None = None
    if labels is not None and predictions is not None:
        subject = LabelPngs(predictions, labels, names)
    elif annotations is not None and predictions is not None:
        subject = Results(predictions, annotations, images, evaluator)
        other = None if against is None else Results(against, annotations, None, evaluator)
    elif exported is not None and data is not None:
        # Here, as it brings what runs such files.
        from vertebra.tools.exporting.subject import ExportedFile

        subject = ExportedFile(exported, data, data_root, wish.split, evaluator, console, tuple(wish.of_detections))
    else:
        subject = wish.of_run(run) if run is not None else wish.of_public(str(weights))
        other = None if against is None else wish.of_run(against)
        folders = wish.folders(run or Path("runs") / str(weights).replace("/", "-"))
    if output is not None:
        folders = output, output / "report"
    if folders is None and no_report:
        raise InputError("--no-report came, but of predictions a report is written only with --output DIR")
    found = subject.measure()
    console.print(found.summary, highlight=False)
    if folders is not None:
        found.write(folders[0])
        console.print(f"metrics, results and pictures are in {folders[0]}", highlight=False, soft_wrap=True)
    notes: list[str] = []
    if other is not None:
        comparison = compare(found.images, other.measure().images)
        text = comparison_text(comparison, (str(run or weights or exported or predictions), str(against)), CHANGED)
        console.print(f"\n{text}", highlight=False, soft_wrap=True)
        notes = text.splitlines()[:2]
        if folders is not None:
            (folders[0] / "comparison.json").write_text(json.dumps(asdict(comparison), indent=2) + "\n")
    if folders is not None and not no_report:
        page = write_measurement_report(folders[1], found, subject.origin, notes)
        console.print(f"report: {page}", highlight=False, soft_wrap=True)


def _numbers(text: str | None) -> tuple[int, ...]:
    """Return the numbers of `1,10,100`."""
    from vertebra.backbones import InputError

    if text is None:
        return 1, 10, 100
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"--max-dets {text}: numbers with commas are expected, such as 1,10,300") from None


if __name__ == "__main__":
    from vertebra.tools.cli import run as run_command

    run_command(lambda: typer.run(evaluate))
