"""Files that are not what they should be: one line that says why, and nothing written."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor, nn

import vertebra
from vertebra.backbones.exchange import convert
from vertebra.backbones.exchange.files import read

State = dict[str, Tensor]


@pytest.fixture
def state() -> State:
    return torchvision.models.resnet18().state_dict()


class Payload:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("raise SystemExit('the payload ran')",)


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_pickles_never_run_code(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "evil.pkl"
    path.write_bytes(pickle.dumps({"model": {"conv1.weight": np.zeros(3, "f4")}, "x": Payload()}, protocol))
    with pytest.raises(vertebra.InputError, match=r"evil\.pkl cannot be read as weights .*: it asks for .*\.exec$"):
        convert(path, tmp_path / "ours.pth", "resnet18")
    assert not (tmp_path / "ours.pth").exists()


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize("dtype", ["f4", "f8", ">f4", "i8", "f2"])
def test_arrays_are_read_as_numpy_wrote_them(tmp_path: Path, dtype: str, protocol: int) -> None:
    array = np.arange(24).reshape(2, 3, 4).astype(dtype)
    content = {"model": {"a": array, "b": np.asfortranarray(array), "c": array[0, 0]}, "lr": np.float64(0.5), "n": "x"}
    path = tmp_path / "arrays.pkl"
    path.write_bytes(pickle.dumps(content, protocol))
    found = read(path)
    for key, value in content["model"].items():
        assert np.array_equal(found.state[key].numpy(), value)
        assert found.state[key].numpy().dtype == np.dtype(dtype).newbyteorder("=")
    assert (found.facts["lr"], found.facts["n"]) == (0.5, "x")


@pytest.mark.parametrize("content", [b"", b"hello", pickle.dumps([1, 2]), pickle.dumps({"a": 1})])
def test_files_that_hold_no_weights(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "no.pkl"
    path.write_bytes(content)
    with pytest.raises(vertebra.InputError, match=r"no\.pkl (cannot be read as weights|holds no state dict)"):
        convert(path, tmp_path / "ours.pth", "resnet18")


def test_arrays_of_objects_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "objects.pkl"
    path.write_bytes(pickle.dumps({"model": {"a": np.array([{}, []], dtype=object)}}))
    with pytest.raises(vertebra.InputError, match="arrays of numbers alone are read"):
        read(path)


class History:
    """A trainer's, beside the weights."""

    def __init__(self) -> None:
        self.values = [1.0, 2.0]

    def __setstate__(self, state: Any) -> None:
        raise SystemExit("code of the file ran")


def test_other_objects_in_a_checkpoint_are_left_unread_and_named(tmp_path: Path, state: State) -> None:
    torch.save({"state_dict": state, "hub": History()}, tmp_path / "epoch_1.pth")
    done = convert(tmp_path / "epoch_1.pth", tmp_path / "ours.pth", "resnet18")
    assert any(line.startswith("not read, for they are no tensors: ") and "History" in line for line in done.lines())


def test_code_in_a_checkpoint_does_not_run(tmp_path: Path, state: State) -> None:
    torch.save({"state_dict": state, "hub": Payload()}, tmp_path / "epoch_1.pth")
    done = convert(tmp_path / "epoch_1.pth", tmp_path / "ours.pth", "resnet18")
    assert any("not read, for they are no tensors: builtins.exec" in line for line in done.lines())


@pytest.mark.parametrize(
    ("change", "name", "message"),
    [
        (lambda s: s.pop("layer1.0.conv1.weight"), "resnet18", r"1 keys are missing \(as 'layer1.0.conv1.weight'\)"),
        (lambda s: s.update(surprise=torch.zeros(1)), "resnet18", r"has 1 keys .* does not have \(as 'surprise'\)"),
        (
            lambda s: s.update({"conv1.weight": torch.zeros(64, 1, 7, 7)}),
            "resnet18",
            r"conv1.weight has shape \(64, 1, 7, 7\), resnet18 needs \(64, 3, 7, 7\)",
        ),
        (lambda s: None, "resnet34", r"is nearest to torchvision's resnet34, of which \d+ keys are missing"),
        (lambda s: None, "densenet121", "has nothing that begins like densenet121 in the keys of"),
        (lambda s: s.update({f"a.{k}": v for k, v in s.items()}), "resnet18", "has resnet18 more than once, at , a.;"),
    ],
)
def test_what_does_not_fit_is_named(
    tmp_path: Path, state: State, change: Callable[[State], Any], name: str, message: str
) -> None:
    change(state)
    torch.save(state, tmp_path / "theirs.pth")
    with pytest.raises(vertebra.InputError, match=message):
        convert(tmp_path / "theirs.pth", tmp_path / "ours.pth", name)
    assert [path.name for path in tmp_path.iterdir()] == ["theirs.pth"]


def test_a_deeper_network_is_not_cut_to_a_shallower_one(tmp_path: Path) -> None:
    torch.save(torchvision.models.resnet34().state_dict(), tmp_path / "theirs.pth")
    with pytest.raises(vertebra.InputError, match=r"keys that torchvision's network .* does not have \(as 'lay"):
        convert(tmp_path / "theirs.pth", tmp_path / "ours.pth", "resnet18")


def test_one_of_several_is_chosen_by_its_prefix(tmp_path: Path, state: State) -> None:
    both = {
        f"{who}.backbone.{key}": value + i
        for i, who in enumerate(("student", "teacher"))
        for key, value in state.items()
    }
    torch.save(both, tmp_path / "theirs.pth")
    done = convert(tmp_path / "theirs.pth", tmp_path / "ours.pth", "resnet18", prefix="teacher.backbone")
    assert torch.equal(done.reading.network.conv1.weight, state["conv1.weight"] + 1)
    assert "at teacher.backbone.*" in done.lines()[0]


def test_features_that_differ_are_an_error(tmp_path: Path, state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    def other(name: str) -> nn.Module:
        network = torchvision.models.resnet18()
        network.relu = nn.SiLU()
        return network

    torch.save(state, tmp_path / "theirs.pth")
    monkeypatch.setattr(torchvision.models, "get_model", other)
    with pytest.raises(vertebra.InputError, match=r"differ from those of torchvision's own network by .* nothing was"):
        convert(tmp_path / "theirs.pth", tmp_path / "ours.pth", "resnet18")
    assert not (tmp_path / "ours.pth").exists()


@pytest.mark.parametrize(
    ("target", "options", "message"),
    [
        ("ours.safetensors", {}, r"a file for vertebra ends in \.pth or \.pt, which keeps mean"),
        ("x.safetensors", {"to": "detectron2"}, r"a file for detectron2 ends in \.pkl or \.pth"),
        ("theirs.pth", {}, "exists already"),
        ("x.pth", {"to": "caffe"}, "unknown framework 'caffe'"),
        ("x.pth", {"layout": "mmdetection"}, r"unknown layout 'mmdetection'.*mmdet, timm, torchvision, vertebra"),
        ("x.pth", {"channels": "gbr"}, "unknown channels 'gbr'"),
        (
            "x.pth",
            {"to": "torchvision", "backbone": "resnet50_caffe"},
            "torchvision has no network like resnet50_caffe",
        ),
        ("x.pth", {"to": "timm", "backbone": "timm/convnext_tiny"}, "timm has no network like timm/convnext_tiny"),
    ],
)
def test_wrong_use(tmp_path: Path, state: State, target: str, options: dict[str, Any], message: str) -> None:
    torch.save(state, tmp_path / "theirs.pth")
    with pytest.raises(vertebra.InputError, match=message):
        convert(tmp_path / "theirs.pth", tmp_path / target, **{"backbone": "resnet18", **options})


def test_other_norms_are_not_exchanged(tmp_path: Path) -> None:
    torch.save({"model": vertebra.create_backbone("resnet18", norm="group").state_dict()}, tmp_path / "ours.pt")
    with pytest.raises(vertebra.InputError, match="only those with batch norm are exchanged"):
        convert(tmp_path / "ours.pt", tmp_path / "theirs.pth", "resnet18", layout="vertebra", to="timm")
