"""Loading is strict: what is not loaded is named, or nothing is loaded."""

import pickle
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import save_file

import vertebra
from vertebra.backbones.weights import Source, load_source, recorded_norm_eps


def weights_of(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in network.state_dict().items()}


def test_classifier_weights_load_and_the_report_names_what_was_dropped() -> None:
    reference = torchvision.models.resnet18()
    network = vertebra.create_backbone("resnet18")
    report = vertebra.load_weights(network, reference.state_dict())
    assert report.dropped == ("fc.bias", "fc.weight")
    assert report.kept == ()
    assert set(report.loaded) == set(network.state_dict())


def test_backbone_weights_into_a_detector() -> None:
    reference = torchvision.models.resnet18()
    model = vertebra.create_model("faster_rcnn", backbone="resnet18", num_classes=3)
    report = vertebra.load_weights(model, reference.state_dict())
    assert torch.equal(model.backbone.body.layer4[1].conv2.weight, reference.layer4[1].conv2.weight)
    assert all(key.startswith("backbone.body.") for key in report.loaded)
    assert all(not key.startswith("backbone.body.") for key in report.kept)
    assert set(report.loaded) | set(report.kept) == set(model.state_dict())


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_files(tmp_path: Path, suffix: str) -> None:
    source = vertebra.create_backbone("resnet18")
    path = tmp_path / f"weights.{suffix}"
    save_file(source.state_dict(), path) if suffix == "safetensors" else torch.save(source.state_dict(), path)
    target = vertebra.create_backbone("resnet18", weights=path)
    for key, value in target.state_dict().items():
        assert torch.equal(value, source.state_dict()[key])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("layer1.0.conv1.weight"), r"1 keys are missing \(as 'layer1.0.conv1.weight'\)"),
        (lambda state: state.update(surprise=torch.zeros(1)), r"1 keys are unexpected \(as 'surprise'\)"),
        (
            lambda state: state.update({"conv1.weight": torch.zeros(64, 1, 7, 7)}),
            r"'conv1.weight' has shape \(64, 1, 7, 7\)",
        ),
    ],
)
def test_a_misfit_is_named_and_changes_nothing(change, message: str) -> None:  # type: ignore[no-untyped-def]
    network = vertebra.create_backbone("resnet18")
    before = weights_of(network)
    state = weights_of(vertebra.create_backbone("resnet18"))
    change(state)
    with pytest.raises(vertebra.InputError, match=message):
        vertebra.load_weights(network, state)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_another_network(tmp_path: Path) -> None:
    path = tmp_path / "resnet50.pth"
    torch.save(torchvision.models.resnet50().state_dict(), path)
    with pytest.raises(vertebra.InputError, match=r"resnet50\.pth does not fit Trunk: .* keys are unexpected"):
        vertebra.create_backbone("resnet18", weights=path)


class Payload:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("raise SystemExit('the payload ran')",)


def test_files_that_are_no_weights(tmp_path: Path) -> None:
    network = vertebra.create_backbone("resnet18")
    with pytest.raises(vertebra.InputError, match=r"no weights at .*absent\.pt"):
        vertebra.load_weights(network, tmp_path / "absent.pt")
    for name, content in (("evil.pt", pickle.dumps(Payload())), ("text.pt", b"hello"), ("empty.safetensors", b"")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(vertebra.InputError, match=f"{name} cannot be read as weights"):
            vertebra.load_weights(network, tmp_path / name)
    torch.save({"answer": 42}, tmp_path / "answer.pt")
    with pytest.raises(vertebra.InputError, match="holds no state dict"):
        vertebra.load_weights(network, tmp_path / "answer.pt")


def test_other_objects_beside_the_weights_are_inert(tmp_path: Path) -> None:
    """As torchvision's scripts keep their arguments, and mmengine the history of its losses."""
    network, other = vertebra.create_backbone("resnet18"), vertebra.create_backbone("resnet18")
    torch.save({"model": network.state_dict(), "args": Namespace(lr=0.1), "more": Payload()}, tmp_path / "model_7.pth")
    vertebra.load_weights(other, tmp_path / "model_7.pth")
    assert torch.equal(other.conv1.weight, network.conv1.weight)


def small_detector(num_classes: int = 3, norm: str = "batch") -> torch.nn.Module:
    row = replace(vertebra.head_row("faster_rcnn"), fpn_channels=8, box_head_channels=16)
    backbone = replace(vertebra.row("resnet18"), depths=(1, 1, 1, 1), widths=(8, 8, 8, 8))
    return vertebra.create_model(row, backbone=backbone, norm=norm, num_classes=num_classes)


@pytest.mark.parametrize("num_classes", [3, 7])
def test_resetting_the_classes(tmp_path: Path, num_classes: int) -> None:
    """Exactly the class layers keep their initialisation, even where the source's would fit."""
    source, model = small_detector(num_classes), small_detector()
    fresh = weights_of(model)
    torch.save(source.state_dict(), tmp_path / "source.pt")
    report = vertebra.load_weights(model, tmp_path / "source.pt", reset_classes=True)
    classes = {
        f"roi_heads.box_predictor.{layer}.{kind}" for layer in ("cls_score", "bbox_pred") for kind in ("weight", "bias")
    }
    assert set(report.reset) == set(report.dropped) == classes
    assert report.kept == ()
    assert str(report).endswith("re-initialised: roi_heads.box_predictor.cls_score, roi_heads.box_predictor.bbox_pred")
    for key, value in model.state_dict().items():
        assert torch.equal(value, fresh[key] if key in classes else source.state_dict()[key]), key
        assert (key in report.loaded) is (key not in classes)


def test_other_classes_are_an_error_that_says_what_to_do() -> None:
    model = small_detector()
    before = weights_of(model)
    with pytest.raises(vertebra.InputError, match=r"has shape \(7,.* reset_classes=True loads all the others"):
        vertebra.load_weights(model, small_detector(7).state_dict())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_resetting_the_classes_forgives_nothing_else() -> None:
    model = small_detector()
    state = weights_of(small_detector(7))
    del state["backbone.fpn.inner_blocks.0.0.weight"]
    with pytest.raises(vertebra.InputError, match=r"1 keys are missing \(as 'backbone.fpn.inner_blocks.0.0.weight'\)"):
        vertebra.load_weights(model, state, reset_classes=True)
    with pytest.raises(vertebra.InputError, match="keys are missing"):
        vertebra.load_weights(model, model.backbone.body.state_dict(), reset_classes=True)
    with pytest.raises(vertebra.InputError, match="Trunk has no layers that depend on the classes"):
        vertebra.load_weights(vertebra.create_backbone("resnet18"), {}, reset_classes=True)


def test_eps_goes_with_a_checkpoint() -> None:
    source = small_detector(norm="frozen_batch")
    load_source(source, Source("mine", small_detector().state_dict(), norm_eps=0.0))
    nothing = torch.zeros(1, 3, 64, 64)
    checkpoint = {"model": source.state_dict(), "norm_eps": recorded_norm_eps(source), "categories": [[4, "cell"]]}
    assert checkpoint["norm_eps"] == 0.0
    model = small_detector(norm="frozen_batch")
    report = vertebra.load_weights(model, checkpoint)
    assert report.categories == ((4, "cell"),)
    with torch.no_grad():
        found, expected = (m.eval().backbone(nothing)["p2"] for m in (model, source))
    assert torch.equal(found, expected)
    assert {m.eps for m in model.modules() if isinstance(m, torchvision.ops.FrozenBatchNorm2d)} == {0.0}
    # With statistics of the batch an eps of 0 would divide by the deviation of a dead channel, 0.
    live = small_detector()
    vertebra.load_weights(live, checkpoint)
    assert recorded_norm_eps(live) == 1e-5


def test_eps_of_a_network_stays_where_the_record_names_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorFlow's networks have 1e-3 in their norms; timm's records do not say so."""
    network = vertebra.create_backbone("timm/tf_efficientnet_b0")
    state = network.state_dict()
    monkeypatch.setattr(vertebra.WeightsRecord, "fetch", lambda record: state)
    again = vertebra.create_backbone("timm/tf_efficientnet_b0", weights="imagenet")
    assert {m.eps for m in again.modules() if isinstance(m, torch.nn.BatchNorm2d)} == {1e-3}
    assert recorded_norm_eps(again) == 1e-3


def test_names_in_other_peoples_checkpoints_mean_what_they_like(tmp_path: Path) -> None:
    network = vertebra.create_backbone("resnet18")
    torch.save({"state_dict": network.state_dict(), "categories": ["cat", "dog!"], "norm_eps": "?"}, tmp_path / "x.pt")
    report = vertebra.load_weights(network, tmp_path / "x.pt")
    assert report.categories is None
