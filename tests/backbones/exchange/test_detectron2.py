"""Weights to and from detectron2, and out of Caffe2's files: equal features, and its own checkpointer agrees."""

import pickle
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import vertebra
from vertebra.backbones.exchange import convert

Randomise = Callable[[nn.Module], nn.Module]

IMAGES = torch.randn(1, 3, 64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
DETECTRON2 = {"reason": "detectron2 is not installed: build it from source"}


def difference(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


def last(network: nn.Module, images: Tensor = IMAGES) -> Tensor:
    with torch.no_grad():
        return list(network.double().eval()(images).values())[-1]


# --- Caffe2's names ------------------------------------------------------------------------------------------------


def caffe2_names(network: nn.Module) -> dict[str, np.ndarray[Any, Any]]:
    """Return scale and shift of our norms and our convolutions as Detectron 1 named them."""
    found = {}
    for name, module in network.named_modules():
        if not isinstance(module, (nn.Conv2d, nn.BatchNorm2d)):
            continue
        stage, _, rest = name.removeprefix("layer").partition(".")
        block, _, part = rest.partition(".")
        place = f"res{int(stage) + 1}_{block}_" if rest else ""
        branch = "branch1" if part.startswith("downsample") else f"branch2{'abc'[int(part[-1]) - 1]}" if part else ""
        if isinstance(module, nn.Conv2d):
            found[f"{place}{branch}_w" if place else "conv1_w"] = module.weight
        else:
            norm = f"{place}{branch}_bn" if place else "res_conv1_bn"
            found[f"{norm}_s"], found[f"{norm}_b"] = module.weight, module.bias
    return {key: value.detach().numpy().copy() for key, value in found.items()}


@pytest.fixture
def msra(tmp_path: Path, randomise_statistics: Randomise) -> tuple[Path, nn.Module]:
    """A file like MSRA's R-50.pkl, pickled as Python 2 did; and the network, on BGR, that it is of."""
    torch.manual_seed(0)
    network = randomise_statistics(vertebra.create_backbone("resnet50_caffe")).eval()
    blobs = {**caffe2_names(network), "fc1000_w": np.zeros((1000, 2048), "f4"), "fc1000_b": np.zeros(1000, "f4")}
    blobs["conv1_b"] = np.zeros(64, "f4")
    with (tmp_path / "R-50.pkl").open("wb") as file:
        pickle.dump(blobs, file, protocol=2)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):  # scale and shift alone
            nn.init.zeros_(module.running_mean)
            nn.init.constant_(module.running_var, 1 - 1e-5)
    return tmp_path / "R-50.pkl", network


def test_a_file_of_caffe2(tmp_path: Path, msra: tuple[Path, nn.Module]) -> None:
    path, theirs = msra
    done = convert(path, tmp_path / "ours.pth", "resnet50_caffe")
    assert (done.reading.layout, done.reading.dropped) == ("Caffe2", ("conv1_b", "fc1000_b", "fc1000_w"))
    ours = vertebra.create_backbone("resnet50_caffe", weights=tmp_path / "ours.pth")
    # From the same uint8 picture: theirs BGR in 0..255, less MSRA's mean, ours as our file says.
    picture = torch.randint(0, 256, (1, 3, 64, 64), generator=torch.Generator().manual_seed(0)).double()
    bgr = picture.flip(1) - torch.tensor([103.53, 116.28, 123.675], dtype=torch.float64)[:, None, None]
    assert difference(last(ours, ours.preprocessing.normalise(picture / 255)), last(theirs, bgr)) < 1e-6
    block = ours.layer2[0]
    assert (block.conv1.stride[0], block.conv2.stride[0]) == (2, 1)
    norm, x = ours.layer1[0].bn1.double(), torch.randn(1, 64, 3, 3, dtype=torch.float64)
    expected = x * norm.weight[:, None, None] + norm.bias[:, None, None]  # as Detectron 1 computes it
    assert difference(norm(x).detach(), expected.detach()) < 1e-7
    assert "the input channels of the first convolution were reversed: from here on images are RGB" in done.lines()
    with pytest.raises(vertebra.InputError, match=r"eps=0\.001: norms in Caffe2's files are scale and shift alone"):
        convert(path, tmp_path / "again.pth", "resnet50_caffe", eps=1e-3)


def test_a_detector_of_detectron_1(tmp_path: Path, msra: tuple[Path, nn.Module]) -> None:
    """Its parts stand side by side, with what its solver kept of each."""
    path, theirs = msra
    blobs = pickle.loads(path.read_bytes(), encoding="latin1")
    heads = {key: np.zeros(3, "f4") for key in ("conv_rpn_fpn2_w", "fpn_inner_res2_2_sum_lateral_w", "bbox_pred_w")}
    (tmp_path / "model_final.pkl").write_bytes(
        pickle.dumps({"cfg": "text", "blobs": {**blobs, **heads, "conv1_w_momentum": blobs["conv1_w"]}})
    )
    done = convert(tmp_path / "model_final.pkl", tmp_path / "ours.pth", "resnet50_caffe")
    assert {*heads, "conv1_w_momentum"} < set(done.reading.dropped)
    assert torch.equal(done.reading.network.conv1.weight.flip(1), theirs.conv1.weight)
    (tmp_path / "deeper.pkl").write_bytes(pickle.dumps({**blobs, "res4_6_branch2a_w": blobs["res4_1_branch2a_w"]}))
    with pytest.raises(vertebra.InputError, match=r"does not have \(as 'res4_6_branch2a_w'\)"):
        convert(tmp_path / "deeper.pkl", tmp_path / "deeper.pth", "resnet50_caffe")


def test_detectron2_reads_caffe2_as_we_do(tmp_path: Path, msra: tuple[Path, nn.Module]) -> None:
    pytest.importorskip("detectron2", **DETECTRON2)
    from detectron2.checkpoint import DetectionCheckpointer

    path, _ = msra
    done = convert(path, tmp_path / "ours.pth", "resnet50_caffe", layout="detectron2")
    assert done.compared["detectron2"] < 1e-10
    theirs = detectron2_backbone(DEPTH=50, STRIDE_IN_1X1=True)
    outcome = DetectionCheckpointer(theirs).load(str(path))
    assert set(outcome) <= {"__author__", "matching_heuristics"}
    for key, value in theirs.state_dict().items():
        if key.endswith("running_var"):
            # Its norms begin with 1 - eps, scale and shift alone; its checkpointer then writes 1, which is 5e-6 off.
            assert torch.equal(value, torch.ones_like(value))
            value.fill_(1 - 1e-5)
    ours = vertebra.create_backbone("resnet50_caffe", weights=tmp_path / "ours.pth")
    assert difference(last(ours), theirs.double().eval()(IMAGES.flip(1))["res5"].detach()) < 1e-6


# --- detectron2 ----------------------------------------------------------------------------------------------------


def detectron2_config(**resnets: Any) -> Any:
    from detectron2.config import get_cfg

    config = get_cfg()
    config.MODEL.DEVICE, config.MODEL.WEIGHTS = "cpu", ""
    config.MODEL.RESNETS.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    if "STEM_TYPE" in resnets:
        from detectron2.projects.deeplab import add_deeplab_config

        add_deeplab_config(config)
        config.MODEL.BACKBONE.NAME = "build_resnet_deeplab_backbone"
        config.MODEL.RESNETS.RES5_MULTI_GRID = [1, 1, 1]  # DeepLab's own dilates
    config.MODEL.RESNETS.update(resnets)
    return config


def detectron2_backbone(**resnets: Any) -> nn.Module:
    from detectron2.modeling import build_backbone

    return build_backbone(detectron2_config(**resnets))


def loaded_by_detectron2(network: nn.Module, path: Path) -> Any:
    """Return what its checkpointer finds missing and unexpected."""
    from detectron2.checkpoint import DetectionCheckpointer

    checkpointer, found = DetectionCheckpointer(network), []
    checkpointer._log_incompatible_keys = found.append
    checkpointer.load(str(path))
    return found[0]


def detectron2_detector() -> nn.Module:
    from detectron2.modeling import build_model

    config = detectron2_config(DEPTH=18, RES2_OUT_CHANNELS=64, STRIDE_IN_1X1=False)
    config.MODEL.BACKBONE.NAME = "build_resnet_fpn_backbone"
    config.MODEL.FPN.IN_FEATURES = ["res2", "res3", "res4", "res5"]
    config.MODEL.RPN.IN_FEATURES = ["p2", "p3", "p4", "p5", "p6"]
    config.MODEL.ANCHOR_GENERATOR.SIZES = [[32], [64], [128], [256], [512]]
    config.MODEL.ROI_HEADS.NAME, config.MODEL.ROI_HEADS.IN_FEATURES = "StandardROIHeads", ["p2", "p3", "p4", "p5"]
    config.MODEL.ROI_BOX_HEAD.NAME, config.MODEL.ROI_BOX_HEAD.NUM_FC = "FastRCNNConvFCHead", 1
    config.MODEL.ROI_BOX_HEAD.FC_DIM, config.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION = 16, 7
    return build_model(config)


def detectron2_randomised(network: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    for key, value in network.state_dict().items():
        if ".norm." in key:
            low = 0.0 if key.endswith(("running_mean", "bias")) else 0.5
            value.uniform_(low, 1.5 - low, generator=generator)
    return network.eval()


@pytest.mark.parametrize(
    ("name", "resnets"),
    [
        ("resnet18", {"DEPTH": 18, "RES2_OUT_CHANNELS": 64}),
        ("resnet50", {"DEPTH": 50, "STRIDE_IN_1X1": False}),
        ("resnet50_caffe", {"DEPTH": 50, "STRIDE_IN_1X1": True}),
        ("resnext50_32x4d", {"DEPTH": 50, "STRIDE_IN_1X1": False, "NUM_GROUPS": 32, "WIDTH_PER_GROUP": 4}),
        pytest.param(
            "wide_resnet50_2", {"DEPTH": 50, "STRIDE_IN_1X1": False, "WIDTH_PER_GROUP": 128}, marks=pytest.mark.slow
        ),
        ("resnet50c", {"DEPTH": 50, "STRIDE_IN_1X1": False, "STEM_TYPE": "deeplab"}),
        pytest.param(
            "resnet103",
            {
                "DEPTH": 101,
                "STRIDE_IN_1X1": False,
                "STEM_TYPE": "deeplab",
                "RES5_MULTI_GRID": [1, 1, 1],
                "STEM_OUT_CHANNELS": 128,
            },
            marks=pytest.mark.slow,
        ),
    ],
)
def test_detectron2_both_ways(tmp_path: Path, name: str, resnets: Mapping[str, Any]) -> None:
    pytest.importorskip("detectron2", **DETECTRON2)
    theirs = detectron2_randomised(detectron2_backbone(**resnets))
    torch.save({"model": theirs.state_dict(), "iteration": 1}, tmp_path / "theirs.pth")
    read = convert(tmp_path / "theirs.pth", tmp_path / "ours.pth", name, channels="bgr")
    assert read.reading.layout == "detectron2"
    assert read.compared["detectron2"] < 1e-10
    ours = vertebra.create_backbone(name, weights=tmp_path / "ours.pth")
    assert ours.preprocessing.mean == pytest.approx((123.675 / 255, 116.28 / 255, 103.53 / 255))
    std = (1, 1, 1) if name.endswith("_caffe") else (58.395, 57.12, 57.375)  # MSRA's weights have it folded in
    assert ours.preprocessing.of_bytes().std == pytest.approx(std)
    with torch.no_grad():
        found, expected = ours.double().eval()(IMAGES), theirs.double()(IMAGES.flip(1))
    for level, feature in found.items():
        assert difference(feature, expected[f"res{level[1]}"]) < 1e-10

    for suffix in (".pkl", ".pth"):
        written = convert(tmp_path / "ours.pth", tmp_path / f"back{suffix}", name, to="detectron2")
        assert written.compared["detectron2"] < 1e-10
        fresh = detectron2_backbone(**resnets).eval()
        outcome = loaded_by_detectron2(fresh, tmp_path / f"back{suffix}")
        assert not outcome.missing_keys
        assert not outcome.unexpected_keys
        with torch.no_grad():
            assert difference(fresh.double()(IMAGES)["res5"], last(ours)) < 1e-10
    again = convert(tmp_path / "back.pkl", tmp_path / "again.pth", name)
    assert again.reading.pixels is not None
    assert again.reading.pixels.channels == "rgb"  # as our file says
    assert last(vertebra.create_backbone(name, weights=tmp_path / "again.pth")).equal(last(ours))


def test_a_detector_of_detectron2_both_ways(tmp_path: Path) -> None:
    pytest.importorskip("detectron2", **DETECTRON2)
    from detectron2.checkpoint import DetectionCheckpointer

    detector = detectron2_detector()
    detectron2_randomised(detector.backbone)
    DetectionCheckpointer(detector, str(tmp_path)).save("model_final", iteration=7)
    read = convert(tmp_path / "model_final.pth", tmp_path / "ours.pth", "resnet18", channels="rgb")
    assert read.reading.prefix == "backbone.bottom_up."
    assert {key.split(".")[0] for key in read.reading.dropped} == {"backbone", "proposal_generator", "roi_heads"}
    ours = vertebra.create_backbone("resnet18", weights=tmp_path / "ours.pth")
    with torch.no_grad():
        assert difference(last(ours), detector.backbone.bottom_up.double()(IMAGES)["res5"]) < 1e-10

    convert(tmp_path / "ours.pth", tmp_path / "theirs.pkl", "resnet18", to="detectron2")
    fresh = detectron2_detector()
    outcome = loaded_by_detectron2(fresh, tmp_path / "theirs.pkl")
    assert not [key for key in outcome.missing_keys if "bottom_up" in key]
    assert not outcome.unexpected_keys
    with torch.no_grad():
        assert difference(fresh.backbone.bottom_up.double().eval()(IMAGES)["res5"], last(ours)) < 1e-10


def test_the_last_stage_of_a_c4_detector_is_in_its_heads(tmp_path: Path) -> None:
    """Written by hand: detectron2's C4 models run res5 on each box."""
    ours = vertebra.create_backbone("resnet18")
    state = {f"backbone.{key}": value for key, value in in_detectron2s_words(ours).items()}
    moved = {key.replace("backbone.res5.", "roi_heads.res5."): value for key, value in state.items()}
    torch.save({"model": moved | {"roi_heads.box_predictor.cls_score.weight": torch.zeros(2)}}, tmp_path / "c4.pth")
    done = convert(tmp_path / "c4.pth", tmp_path / "ours.pth", "resnet18", channels="rgb")
    assert last(vertebra.create_backbone("resnet18", weights=tmp_path / "ours.pth")).equal(last(ours))
    assert "backbone.res5.* is roi_heads.res5.* in the file" in done.lines()


def in_detectron2s_words(network: nn.Module) -> dict[str, Tensor]:
    """Return the tensors of a plain ResNet under detectron2's names, module by module."""
    found = {}
    for name, module in network.named_modules():
        stage, _, rest = name.removeprefix("layer").partition(".")
        place = f"res{int(stage) + 1}.{rest}" if rest else f"stem.{name}"
        place = place.replace("downsample.0", "shortcut").replace("downsample.1", "shortcut.norm")
        place = place.replace("bn", "conv") + ".norm" if "bn" in place else place
        if isinstance(module, (nn.Conv2d, nn.BatchNorm2d)):
            found |= {f"{place}.{key}": value for key, value in module.state_dict().items() if value.ndim}
    return found


@pytest.fixture
def detectron2_file(tmp_path: Path) -> Callable[..., Path]:
    """Write a ResNet-18 as detectron2 names it, with what stands beside the tensors."""

    def write(beside: Mapping[str, Any] | None = None, tensors: Mapping[str, Tensor] | None = None) -> Path:
        state = {
            key: value.numpy() for key, value in in_detectron2s_words(vertebra.create_backbone("resnet18")).items()
        }
        more = {key: value.numpy() for key, value in (tensors or {}).items()}
        path = tmp_path / "theirs.pkl"
        path.write_bytes(pickle.dumps({"model": state | more, "__author__": "me", **(beside or {})}))
        return path

    return write


def test_channels_are_asked_for_where_nobody_knows(tmp_path: Path, detectron2_file: Callable[..., Path]) -> None:
    path = detectron2_file()
    with pytest.raises(vertebra.InputError, match="does not say whether its images were RGB or BGR"):
        convert(path, tmp_path / "ours.pth", "resnet18")
    assert not (tmp_path / "ours.pth").exists()
    done = convert(path, tmp_path / "ours.pth", "resnet18", channels="bgr", mean=(1, 2, 3), std=(4, 5, 6))
    network = vertebra.create_backbone("resnet18", weights=tmp_path / "ours.pth")
    assert network.preprocessing.of_bytes().mean == pytest.approx((3, 2, 1))
    assert network.preprocessing.of_bytes().std == pytest.approx((6, 5, 4))
    assert "its images: BGR in 0..255, mean 1 2 3, std 4 5 6; as given" in done.lines()


@pytest.mark.parametrize(
    ("mean", "std", "channels"),
    [((103.53, 116.28, 123.675), (1, 1, 1), "bgr"), ((123.7, 116.3, 103.5), (58, 57, 57.0), "rgb")],
)
def test_older_files_hold_the_mean(
    tmp_path: Path, detectron2_file: Callable[..., Path], mean: tuple[float, ...], std: tuple[float, ...], channels: str
) -> None:
    pixels = {
        "pixel_mean": torch.tensor(mean).reshape(3, 1, 1),
        "pixel_std": torch.tensor(std).reshape(3, 1, 1).float(),
    }
    done = convert(detectron2_file(tensors=pixels), tmp_path / "ours.pth", "resnet18")
    assert done.reading.pixels is not None
    assert done.reading.pixels.channels == channels
    order = mean if channels == "rgb" else mean[::-1]
    network = vertebra.create_backbone("resnet18", weights=tmp_path / "ours.pth")
    assert network.preprocessing.of_bytes().mean == pytest.approx(order, rel=1e-6)


def test_torchvisions_weights_in_detectron2s_names_stride_in_the_3x3(
    tmp_path: Path, detectron2_file: Callable[..., Path]
) -> None:
    path = detectron2_file({"__author__": "torchvision"})
    done = convert(path, tmp_path / "ours.pth", "resnet18")
    assert done.reading.network.preprocessing.mean == pytest.approx((0.485, 0.456, 0.406))
    state = {key: value.numpy() for key, value in in_detectron2s_words(vertebra.create_backbone("resnet50")).items()}
    path.write_bytes(pickle.dumps({"model": state, "__author__": "torchvision"}))
    with pytest.raises(vertebra.InputError, match=r"stride in the 3x3: convert it to .*, such as resnet50$"):
        convert(path, tmp_path / "caffe.pth", "resnet50_caffe")


def test_where_a_network_strides_is_stated(tmp_path: Path) -> None:
    torch.save({"model": in_detectron2s_words(vertebra.create_backbone("resnet50"))}, tmp_path / "theirs.pth")
    done = convert(tmp_path / "theirs.pth", tmp_path / "ours.pth", "resnet50", channels="rgb")
    text = "\n".join(done.lines())
    assert "resnet50 strides in the 3x3 of a bottleneck; the file does not say where its network does" in text
    assert "else it is resnet50_caffe" in text


def test_what_to_write_in_detectron2s_configuration(tmp_path: Path) -> None:
    torch.save({"model": vertebra.create_backbone("resnext50_32x4d").state_dict()}, tmp_path / "ours.pth")
    done = convert(tmp_path / "ours.pth", tmp_path / "theirs.pkl", "resnext50_32x4d", to="detectron2")
    import yaml

    found = yaml.safe_load("\n".join(done.advice[1:]))
    assert found["INPUT"] == {"FORMAT": "RGB"}
    assert found["MODEL"]["PIXEL_MEAN"] == [123.675, 116.28, 103.53]
    assert found["MODEL"]["PIXEL_STD"] == [58.395, 57.12, 57.375]
    assert found["MODEL"]["RESNETS"] == {
        "DEPTH": 50, "STRIDE_IN_1X1": False, "NUM_GROUPS": 32, "WIDTH_PER_GROUP": 4, "RES2_OUT_CHANNELS": 256,
        "STEM_OUT_CHANNELS": 64, "NORM": "FrozenBN",
    }  # fmt: skip


def test_without_detectron2_it_is_said_that_nothing_was_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("detectron2", "detectron2.config"):
        monkeypatch.setitem(sys.modules, module, None)
    torch.save({"model": vertebra.create_backbone("resnet18").state_dict()}, tmp_path / "ours.pth")
    done = convert(tmp_path / "ours.pth", tmp_path / "theirs.pkl", "resnet18", to="detectron2")
    assert any(
        line.startswith("not compared with detectron2's own network: it cannot be imported") for line in done.lines()
    )


def test_networks_that_detectron2_has_not(tmp_path: Path) -> None:
    torch.save(vertebra.create_backbone("densenet121").state_dict(), tmp_path / "ours.pth")
    with pytest.raises(vertebra.InputError, match=r"detectron2 has no network like densenet121; .*50_caffe"):
        convert(tmp_path / "ours.pth", tmp_path / "theirs.pkl", "densenet121", to="detectron2")
