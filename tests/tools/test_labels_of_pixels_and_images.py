"""Segmenters and classifiers from the command line: trained, measured, and used."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import vertebra
from vertebra.tools.data.shapes import SHAPES

SETTINGS = {
    "deeplabv3": ["head.aspp_channels=16", "transforms.crop=[64,64]"],
    "deeplabv3plus": ["head.aspp_channels=16", "head.decoder_channels=16", "head.losses=[cross_entropy,dice]"],
    "classifier": ["transforms.crop=[32,32]", "transforms.short=32"],
}
COMMON = ["schedule.epochs=1", "schedule.warmup_steps=2", "optim.batch_size=4", "engine.workers=0", "engine.device=cpu"]


def train(cli: Any, head: str, *arguments: object) -> Any:
    settings = [part for setting in [*COMMON, *SETTINGS[head]] for part in ("--set", setting)]
    backbone = "resnet20" if head == "classifier" else "resnet18"
    return cli("train", "--head", head, "--backbone", backbone, "--schedule", "smoke", *settings, *arguments)


@pytest.mark.parametrize("head", ["deeplabv3", "deeplabv3plus"])
def test_a_segmenter(cli: Any, workplace: Path, shapes: Path, head: str) -> None:
    done = train(cli, head, "--data", "data.yaml", "--output", "run")
    assert done.status == 0, done.err
    assert "mIoU" in done.out
    metrics = json.loads((workplace / "run" / "evaluation" / "metrics.json").read_text())
    assert set(metrics["IoU"]) == {"__background__", *SHAPES}
    assert 0 <= metrics["semantic"]["mIoU"] <= 1
    assert len(list((workplace / "run" / "evaluation" / "pictures").iterdir())) == 4
    assert (workplace / "run" / "evaluation" / "confusion.png").stat().st_size

    done = cli("evaluate", "run", "--split", "train", "--set", "head.test_flip=true")
    assert done.status == 0, done.err
    assert (workplace / "run" / "evaluation-train" / "metrics.json").is_file()

    done = cli("predict", "run", shapes / "val", "--output", "found")
    assert done.status == 0, done.err
    values = np.asarray(Image.open(workplace / "found" / "000000.png"))
    assert values.shape == (64, 64)
    assert values.max() <= 4
    rows = list(csv.DictReader((workplace / "found" / "areas.csv").open()))
    assert sum(int(row["pixels"]) for row in rows) == 4 * 64 * 64
    found = vertebra.Predictor("run")(shapes / "val" / "000000.png")
    assert (found["semantic"].numpy() == values).all()
    refused = cli("predict", "run", shapes / "val", "--score", "0.3")
    assert refused.status == 2
    assert "--score 0.3 is for detections" in refused.err


def test_label_pngs_without_a_model(cli: Any, tmp_path: Path) -> None:
    """Two classes in an image of four pixels: one of three is found, and the other once too often."""
    for folder, pixels in (("truth", [[0, 0], [0, 1]]), ("found", [[0, 0], [1, 1]])):
        (tmp_path / folder).mkdir()
        Image.fromarray(np.array(pixels, np.uint8)).save(tmp_path / folder / "a.png")
    (tmp_path / "names.txt").write_text("sky\nroad\n")
    compare = ["evaluate", "--predictions", tmp_path / "found", "--labels", tmp_path / "truth"]
    done = cli(*compare, "--names", tmp_path / "names.txt", "--output", tmp_path / "out")
    assert done.status == 0, done.err
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["IoU"] == pytest.approx({"sky": 2 / 3, "road": 1 / 2})
    assert metrics["semantic"]["mIoU"] == pytest.approx(7 / 12)
    report = json.loads((tmp_path / "out" / "report" / "report.json").read_text())
    assert [(card["name"], card["quality"]) for card in report["worst"]] == [("a.png", pytest.approx(7 / 12))]
    for wrong, message in (
        (["evaluate"], "or --exported FILE with --data NAME, or --predictions FILE with"),
        (compare[:3], "or --predictions DIR with --labels DIR; only --predictions came"),
        ([*compare, "--data", "shapes"], "--data cannot go with --predictions DIR with --labels DIR; --data goes with"),
        (
            [*compare, "--boundary"],
            "--boundary goes with the folder of a run or --weights torchvision/MODEL or --exported",
        ),
        ([*compare[:3], "--labels", tmp_path / "truth", "--no-report"], "--no-report came, but of predictions"),
        (["evaluate", "run", "--names", tmp_path / "names.txt"], "--names goes with --predictions DIR with --labels"),
    ):
        done = cli(*wrong)
        assert done.status == 2
        assert message in done.err


def test_a_classifier_and_what_it_is_for(cli: Any, workplace: Path, shapes: Path) -> None:
    done = train(cli, "classifier", "--data", "data.yaml", "--output", "run")
    assert done.status == 0, done.err
    metrics = json.loads((workplace / "run" / "evaluation" / "metrics.json").read_text())
    assert 0 <= metrics["classification"]["top1"] <= 1
    assert "top5" not in metrics["classification"]  # of four classes
    assert (workplace / "run" / "evaluation" / "pictures.jpg").stat().st_size

    done = cli("predict", "run", shapes / "val", "--output", "found", "--top", "2")
    assert done.status == 0, done.err
    rows = list(csv.DictReader((workplace / "found" / "classes.csv").open()))
    assert len(rows) == 2 * 4
    assert {row["class"] for row in rows} <= set(SHAPES)
    found = vertebra.Predictor("run")(shapes / "val" / "000000.png")
    assert found["name"] == rows[0]["class"]

    done = cli("curves", "run", "--output", "curves.png")
    assert done.status == 0, done.err
    assert "best classification/top1" in done.out
    assert (workplace / "curves.png").stat().st_size

    # Its backbone, in a detector: resnet20 has stages c2 to c4.
    settings = ["head.fpn_channels=16", "head.box_head_channels=16", "head.rpn_post_nms_top_n_train=20"]
    options = [part for setting in [*COMMON, *settings] for part in ("--set", setting)]
    done = cli(
        *("train", "--head", "faster_rcnn", "--backbone", "resnet20", "--data", "data.yaml", "--schedule", "smoke"),
        *("--weights", "run", "--output", "detector", *options),
    )
    assert done.status == 0, done.err
    assert "2 dropped" in done.out.replace("\n", " ")  # head.weight and head.bias


def test_a_public_segmenter_is_measured(cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As torchvision's own model scores, by the share of pixels on which it agrees with made-up labels."""
    import torch
    from torchvision.models.segmentation import deeplabv3_resnet50
    from torchvision.transforms.functional import normalize

    torch.manual_seed(0)
    reference = deeplabv3_resnet50(weights=None, weights_backbone=None, num_classes=21, aux_loss=True).eval()
    monkeypatch.setattr("vertebra.backbones.WeightsRecord.fetch", lambda self: reference.state_dict())
    random = np.random.default_rng(0)
    pixels, labels = random.integers(0, 256, (64, 96, 3), np.uint8), random.integers(0, 21, (64, 96), np.uint8)
    for folder, content in (("images", pixels), ("labels", labels)):
        (tmp_path / folder).mkdir()
        Image.fromarray(content).save(tmp_path / folder / "a.png")
    (tmp_path / "mine.yaml").write_text(
        "data: {root: ., val: {images: images, labels: labels}, labels: {format: voc}}\n"
        "transforms: {short: 64, longest: 96, crop: [64, 64]}\n"
    )
    evaluate = ["evaluate", "--weights", "torchvision/deeplabv3_resnet50", "--data", tmp_path / "mine.yaml"]
    done = cli(*evaluate, "--output", tmp_path / "out", "--set", "engine.workers=0", "--set", "engine.device=cpu")
    assert done.status == 0, done.err
    image = torch.from_numpy(pixels).permute(2, 0, 1) / 255
    with torch.no_grad():
        found = reference(normalize(image, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))[None])["out"][0].argmax(dim=0)
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    agreement = float((found.numpy() == labels).mean())
    assert metrics["semantic"]["pixel_accuracy"] == pytest.approx(agreement, abs=2e-3)  # a tie of float32 or two
    refused = cli("evaluate", "--weights", "torchvision/deeplabv3_resnet5O", "--data", "shapes")
    assert refused.status == 2
    assert "Did you mean 'torchvision/deeplabv3_resnet50'?" in refused.err
