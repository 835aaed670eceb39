"""Loading is strict: what is not loaded is named, or nothing is loaded."""

import pickle
from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import save_file

import vertebra


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
