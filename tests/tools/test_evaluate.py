"""`vertebra evaluate` from a run to its report, from results of any program, and of two against each other."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Command = Callable[..., Any]


@pytest.fixture(scope="module")
def results(mask_run: Path, shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """COCO results that are the truth, but that of every second image is 4 pixels to the right."""
    document = json.loads((shapes / "annotations" / "val.json").read_text())
    found = []
    for annotation in document["annotations"]:
        x, y, width, height = annotation["bbox"]
        shifted = [x + 4 * (annotation["image_id"] % 2), y, width, height]
        found.append({key: annotation[key] for key in ("image_id", "category_id")} | {"bbox": shifted, "score": 0.9})
    path = tmp_path_factory.mktemp("results") / "shifted.json"
    path.write_text(json.dumps(found))
    (path.parent / "perfect.json").write_text(
        json.dumps([{**result, "bbox": a["bbox"]} for result, a in zip(found, document["annotations"], strict=True)])
    )
    return path


@pytest.fixture
def annotations(shapes: Path) -> Path:
    return shapes / "annotations" / "val.json"


def test_a_run_gets_its_report(cli: Command, mask_run: Path) -> None:
    done = cli("evaluate", mask_run, "--boundary", "--max-dets", "1,5")
    assert done.status == 0, done.err
    metrics = json.loads((mask_run / "evaluation" / "metrics.json").read_text())
    report = json.loads((mask_run / "report" / "report.json").read_text())
    assert {"bbox", "segm", "boundary"} <= metrics.keys()
    assert {"AR1", "AR5"} <= metrics["segm"].keys()
    shown = {(line["section"], line["name"]): line["value"] for line in report["headlines"]}
    for section in ("bbox", "segm", "boundary"):
        assert shown[section, "AP"] == pytest.approx(metrics[section]["AP"])
    assert report["kind"] == "instance segmentation"
    assert ["head", "mask_rcnn"] in report["facts"]
    assert len(report["worst"]) + len(report["best"]) == 4
    assert f"report: {mask_run}/report/index.html" in done.out
    assert done.out.count("Average Precision") == 3 * 6


def test_results_of_a_run_give_its_numbers(cli: Command, mask_run: Path, annotations: Path, tmp_path: Path) -> None:
    assert cli("evaluate", mask_run, "--no-report").status == 0
    found = mask_run / "evaluation" / "predictions.json"
    images = annotations.parents[1] / "val"
    arguments = ["--predictions", found, "--annotations", annotations, "--images", images, "--output", tmp_path]
    for more in ([], ["--reference"]):
        done = cli("evaluate", *arguments, *more)
        assert done.status == 0, done.err
        ours, theirs = (
            json.loads(path.read_text())
            for path in (tmp_path / "metrics.json", mask_run / "evaluation" / "metrics.json")
        )
        assert ours["bbox"] == pytest.approx(theirs["bbox"], abs=1e-12)
        assert ours["segm"] == pytest.approx(theirs["segm"], abs=1e-12)
    assert (tmp_path / "report" / "index.html").is_file()


def test_predictions_on_an_image_list_give_the_numbers_of_the_run(
    cli: Command, mask_run: Path, annotations: Path, tmp_path: Path
) -> None:
    """What is sent to a server that scores results is what `evaluate` measures."""
    images = annotations.parents[1] / "val"
    done = cli("predict", mask_run, annotations, "--images", images, "--no-pictures", "--output", tmp_path)
    assert done.status == 0, done.err
    assert cli("evaluate", mask_run, "--no-report").status == 0
    assert json.loads((tmp_path / "predictions.json").read_text()) == json.loads(
        (mask_run / "evaluation" / "predictions.json").read_text()
    )


def test_without_an_output_results_are_only_printed(
    cli: Command, results: Path, annotations: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = cli("evaluate", "--predictions", results.parent / "perfect.json", "--annotations", annotations)
    assert done.status == 0, done.err
    assert "maxDets=100 ] = 1.000" in done.out
    assert not list(tmp_path.iterdir())


def test_two_results_against_each_other(cli: Command, results: Path, annotations: Path, tmp_path: Path) -> None:
    """Perfect boxes against shifted ones, and against themselves."""
    perfect = results.parent / "perfect.json"
    arguments = ["evaluate", "--predictions", perfect, "--annotations", annotations, "--output", tmp_path / "out"]
    done = cli(*arguments, "--against", results)
    assert done.status == 0, done.err
    comparison = json.loads((tmp_path / "out" / "comparison.json").read_text())
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert comparison["metric"] == "bbox/AP"
    assert comparison["a"] == pytest.approx(1)
    assert metrics["bbox"]["AP"] == pytest.approx(1)
    assert comparison["difference"]["value"] == pytest.approx(1 - comparison["b"])
    # The images 1 and 3 of four have shifted boxes.
    assert {name for name, *_ in comparison["changed"]} == {"000000.png", "000002.png"}
    assert f"bbox/AP: {perfect} 1.000, {results} 0." in done.out
    report = json.loads((tmp_path / "out" / "report" / "report.json").read_text())
    assert any(note.startswith("difference +") for note in report["notes"])

    done = cli(*arguments, "--against", perfect)
    assert "difference +0.000, 95 % interval +0.000 to +0.000" in done.out
    assert "no image has another quality" in done.out


def test_two_runs_against_each_other(cli: Command, mask_run: Path) -> None:
    done = cli("evaluate", mask_run, "--against", mask_run, "--no-report")
    assert done.status == 0, done.err
    comparison = json.loads((mask_run / "evaluation" / "comparison.json").read_text())
    assert comparison["metric"] == "segm/AP"
    assert comparison["difference"] == {"value": 0, "low": 0, "high": 0}


def test_what_does_not_go_together(cli: Command, mask_run: Path, results: Path, annotations: Path) -> None:
    given = ["--predictions", results, "--annotations", annotations]
    for options, message in (
        ([mask_run, "--annotations", annotations], "--annotations cannot go with the folder of a run"),
        ([*given, "--boundary"], f"--boundary is for masks; {results} has boxes alone"),
        ([*given, "--max-dets", "many"], "--max-dets many: numbers with commas are expected, such as 1,10,300"),
        ([*given, "--max-dets", "10,1"], "max_dets=(10, 1): ascending whole numbers from 1 on"),
        ([*given, "--best"], "--best cannot go with --predictions FILE with --annotations FILE"),
    ):
        done = cli("evaluate", *options)
        assert done.status == 2
        assert message in done.err
        assert done.err.count("\n") == 1
