"""`vertebra export`: the file alone finds what the run finds, in onnxruntime and in torch."""

import contextlib
import io
import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import vertebra
from vertebra.heads.export import exportable
from vertebra.tools.export import export
from vertebra.tools.exported import Exported, ExportedModel

ROOT = Path(__file__).resolve().parents[2]
Command = Callable[..., Any]


@pytest.fixture(scope="module")
def exported(mask_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that has learnt nothing as ONNX, for one image of 64 pixels at a time."""
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    path = tmp_path_factory.mktemp("exported") / "model.onnx"
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        export(mask_run, output=path, size="64x64", batch_size=1)
    assert "inputs: images, sizes, of 1 images, 64x64 pixels" in printed.getvalue()
    assert re.search(r"(\d+) of \1 detections \(\1 in the file\)", printed.getvalue())
    return path


def test_onnx_has_operators_of_the_standard_domain_alone(exported: Path) -> None:
    import onnx

    model = onnx.load(exported)
    onnx.checker.check_model(model)
    assert {opset.domain for opset in model.opset_import} == {""}
    assert {node.domain for node in model.graph.node} == {""}
    assert not model.functions
    assert [each.name for each in model.graph.input] == ["images", "sizes"]
    assert [each.name for each in model.graph.output] == ["boxes", "scores", "labels", "valid", "masks"]


def test_the_file_alone_gives_the_numbers_of_the_run(
    cli: Command, exported: Path, mask_run: Path, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli("evaluate", mask_run, "--no-report", "--output", "run").status == 0
    data = mask_run.parent / "data.yaml"
    done = cli("evaluate", "--exported", exported, "--data", data, "--no-report", "--output", "file")
    assert done.status == 0, done.err
    metrics = [json.loads(Path(name, "metrics.json").read_text()) for name in ("run", "file")]
    assert metrics[0]["bbox"]["AP50"] > 0
    for section in ("bbox", "segm"):
        assert metrics[1][section] == pytest.approx(metrics[0][section], abs=1e-6)
    # The program on the page of docs knows neither the project nor torch.
    page = (ROOT / "docs" / "export.md").read_text()
    (program,) = re.findall(r"^```py\n(import json, sys\n.*?)^```", page, flags=re.DOTALL | re.MULTILINE)
    assert "torch" not in program
    assert "vertebra." not in program
    Path("program.py").write_text(program)
    done = subprocess.run(
        [sys.executable, "program.py", exported, shapes / "annotations" / "val.json", shapes / "val"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    printed = [float(value) for value in re.findall(r"= (-?\d\.\d+)", done.stdout)]
    assert [printed[0], printed[1]] == pytest.approx([metrics[0]["bbox"][name] for name in ("AP", "AP50")], abs=6e-4)
    assert [printed[12], printed[13]] == pytest.approx([metrics[0]["segm"][name] for name in ("AP", "AP50")], abs=6e-4)


def test_exported_is_used_as_a_predictor_is(exported: Path, mask_run: Path, shapes: Path) -> None:
    from vertebra.tools.predictor import Predictor

    images = sorted((shapes / "val").iterdir())[:3]
    predictor = Predictor(mask_run)
    for one, other in zip(Exported(exported)(images, top=5), predictor(images, top=5), strict=True):
        assert one["names"] == other["names"]
        assert one["size"] == other["size"] == (64, 64)
        torch.testing.assert_close(one["scores"], other["scores"], rtol=0, atol=1e-5)
        torch.testing.assert_close(one["boxes"], other["boxes"], rtol=0, atol=1e-3)
        assert (predictor.masks(one) == predictor.masks(other)).mean() > 0.999


def test_images_that_do_not_fit_into_a_fixed_size(exported: Path) -> None:
    model = ExportedModel(exported)
    model.description = replace(model.description, resize=None)
    with pytest.raises(vertebra.InputError, match="64x64 alone"):
        model([torch.rand(3, 65, 40)])


def test_a_fixed_number_of_images_is_filled_up(exported: Path) -> None:
    model = ExportedModel(exported)
    images = [torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(i)) for i in range(3)]
    expected = model(images)
    run, counts = model._run, []

    def for_two(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        counts.append(len(inputs["images"]))
        parts = [run({name: value[i : i + 1] for name, value in inputs.items()}) for i in range(counts[-1])]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    model.description, model._run = replace(model.description, batch_size=2), for_two
    found = model(images)
    assert counts == [2, 2]
    assert len(found) == 3
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one["boxes"], other["boxes"])


MISTAKES = {
    "no format": (["--format", "onxx"], "Did you mean 'onnx'?"),
    "no suffix": (["--output", "model.pt"], "ends in .onnx"),
    "no folder": (["--output", "nowhere/model.onnx"], "there is no folder nowhere"),
    "no size": (["--size", "64"], "height x width"),
    "no best": (["--best"], "best.pt"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_get_one_line(cli: Command, mask_run: Path, name: str) -> None:
    arguments, message = MISTAKES[name]
    done = cli("export", mask_run, *arguments)
    assert done.status == 2
    assert message in done.err
    assert done.err.count("\n") == 1


def test_a_run_without_a_checkpoint(cli: Command, mask_run: Path, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text((mask_run / "config.yaml").read_text())
    done = cli("export", tmp_path, "--output", tmp_path / "model.onnx")
    assert done.status == 2
    assert "checkpoint.pt" in done.err


def test_files_that_export_did_not_write(cli: Command, mask_run: Path, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"no model")
    torch.save({}, tmp_path / "model.pt2")
    data = mask_run.parent / "data.yaml"
    for name, message in (
        ("model.onnx", "no ONNX file that onnxruntime can read"),
        ("model.pt2", "no file that torch.export can load"),
        ("none.onnx", "no exported model at"),
    ):
        done = cli("evaluate", "--exported", tmp_path / name, "--data", data)
        assert done.status == 2
        assert message in done.err
        assert done.err.count("\n") == 1
    done = cli("evaluate", "--exported", mask_run / "checkpoint.pt", "--data", data)
    assert "its name would end in .onnx or .pt2" in done.err
    assert "--exported FILE with --data NAME" in cli("evaluate", "--exported", tmp_path / "model.onnx").err


# --- what takes minutes ----------------------------------------------------------------------------------------------

TINY = {
    "fpn_channels": 16, "box_head_channels": 32, "rpn_pre_nms_top_n_test": 150, "rpn_post_nms_top_n_test": 40,
    "mask_channels": 8, "mask_convs": 1, "aspp_channels": 8,
}  # fmt: skip


def tiny_model(head: str) -> Any:
    row = vertebra.head_row(head)
    changes = {name: value for name, value in TINY.items() if getattr(row, name, None) is not None}
    backbone = replace(vertebra.row("resnet18"), depths=(1, 1, 1, 1), widths=(8, 8, 8, 8))
    torch.manual_seed(0)
    model = vertebra.create_model(replace(row, test_size=None, **changes), backbone=backbone, num_classes=5)
    return model.eval()


def write(model: Any, path: Path, format: str, **fixed: Any) -> ExportedModel:
    from vertebra.tools.exporting.description import Description
    from vertebra.tools.exporting.files import FORMATS
    from vertebra.tools.exporting.tracing import trace

    form = FORMATS[format]
    size, batch_size = fixed.get("size"), fixed.get("batch_size")
    program = trace(model, form.suppress, channels=3, size=size, batch_size=batch_size)
    traced = exportable(model, form.suppress)
    labels = tuple((i, str(i)) for i in range(1, model.num_classes + 1 - model.first_label))
    description = Description(
        "head", "backbone", tuple(model.target_keys), model.first_label, labels, 3, model.test_size, (), size,
        batch_size, traced.inputs, traced.outputs,
    )  # fmt: skip
    form.write(program, description, path)
    return ExportedModel(path)


def same(model: Any, exported: ExportedModel, images: list[Tensor]) -> tuple[bool, str]:
    from vertebra.tools.exporting.checking import difference

    if "masks" in model.target_keys:
        model.mask_format = "rle"
    with torch.inference_mode():
        return difference(model(images), exported(images))


@pytest.mark.slow
@pytest.mark.parametrize("format", ["onnx", "torch-export"])
@pytest.mark.parametrize("head", vertebra.list_heads())
def test_every_head_in_batches_of_any_size(head: str, format: str, tmp_path: Path) -> None:
    model = tiny_model(head)
    exported = write(model, tmp_path / ("model.onnx" if format == "onnx" else "model.pt2"), format)
    generator = torch.Generator().manual_seed(0)
    for count in (1, 2, 4):
        sides = [(70, 100)] * 4 if head == "classifier" else [(70, 100), (128, 60), (64, 64), (33, 190)]
        images = [torch.rand(3, *side, generator=generator) for side in sides[:count]]
        equal, text = same(model, exported, images)
        assert equal, text
    if hasattr(model, "roi_heads"):
        # The file is of the weights as they were: of a threshold that nothing passes another is written.
        model.roi_heads.settings = replace(model.roi_heads.settings, score_threshold=1.0)
        exported = write(model, tmp_path / ("none.onnx" if format == "onnx" else "none.pt2"), format)
        assert [len(one["boxes"]) for one in exported(images)] == [0] * 4


@pytest.mark.slow
def test_an_archive_needs_torchvision_alone(tmp_path: Path) -> None:
    model = tiny_model("mask_rcnn")
    write(model, tmp_path / "model.pt2", "torch-export")
    program = (
        "import sys, torch, torchvision\n"
        "model = torch.export.load(sys.argv[1]).module()\n"
        "outputs = model(torch.rand(3, 3, 64, 96), torch.tensor([[64, 96], [50, 60], [1, 1]]))\n"
        "assert 'vertebra' not in sys.modules\n"
        "print(*(tuple(output.shape) for output in outputs))\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "model.pt2")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "(3, 100, 4) (3, 100) (3, 100) (3, 100) (3, 100, 28, 28)", done.stderr


@pytest.mark.slow
def test_real_images_on_a_network_of_usual_size(real_data: Path, tmp_path: Path) -> None:
    """ResNet-50 with FPN, whose norms have the statistics of real images and whose scores are spread."""
    import cv2
    from torch import nn

    torch.manual_seed(0)
    row = replace(vertebra.head_row("mask_rcnn"), test_size=(320, 544))
    model: Any = vertebra.create_model(row, backbone="resnet50", num_classes=81)
    files = sorted((real_data / "coco_mini" / "val2017").iterdir())[:12]
    images = [torch.from_numpy(cv2.imread(str(file))[..., ::-1].copy()).permute(2, 0, 1) for file in files]
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    model.train()
    with torch.no_grad():
        model.backbone(model._batch(images[:4]).images)
    model.eval()
    for layer in (model.rpn.head.cls_logits, model.roi_heads.box_predictor.cls_score):
        nn.init.normal_(layer.weight, std=0.05)
    exported = write(model, tmp_path / "model.onnx", "onnx")
    model.mask_format = "rle"
    found = [same(model, exported, images[i : i + n]) for i, n in ((4, 1), (5, 1), (6, 2), (8, 4))]
    assert all(equal for equal, _ in found), found
