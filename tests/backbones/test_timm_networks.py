"""timm's networks keep our contract, and give what timm gives where timm gives the same sizes."""

import sys
from collections.abc import Callable
from math import ceil
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

import vertebra
from vertebra.backbones.timm_networks import TimmNetwork

Randomise = Callable[[nn.Module], nn.Module]

# In a row (flattened, one flattened by us), channels last, in parts (dual paths), with an own class, with hooks, and
# through a getter at strides that are all the same.
NETWORKS = [
    "resnet18",
    "test_convnext",
    "efficientnet_lite0",
    "swin_tiny_patch4_window7_224",
    "vgg11",
    "densenet121",
    "regnetx_002",
    "mobilenetv3_small_050",
    "dpn48b",
    "hrnet_w18_small",
    "xception41",
    "vit_tiny_patch16_224",
]
WHOLE = NETWORKS[-3:]
DEEPEST = {name: 16 if name.startswith("vit") else 32 for name in NETWORKS}


def everything(name: str, **options: Any) -> Any:
    """Return a network with all its features, whatever the default ones are."""
    network = TimmNetwork(name)
    built = network(in_channels=3, output_stride=32, norm=nn.BatchNorm2d)
    names = tuple(info.name for info in built.feature_info)
    return vertebra.create_backbone(f"timm/{name}", out_features=names, **options)


def timms_own(name: str, state: dict[str, Tensor], path: Path, **options: Any) -> nn.Module:
    """Return timm's network of features with the weights of a classifier, loaded by timm itself."""
    torch.save(state, path)
    overlay = {"file": str(path)}
    return timm.create_model(name, features_only=True, pretrained=True, pretrained_cfg_overlay=overlay, **options)


@pytest.mark.parametrize("name", NETWORKS)
def test_declared_features_are_the_real_ones(name: str) -> None:
    with torch.device("meta"):
        network = everything(name)
        for size in [(64, 96), (97, 131), (33, 70), (1, 1)]:
            real = {key: tuple(value.shape) for key, value in network(torch.empty(2, 3, *size)).items()}
            declared = {
                i.name: (2, i.channels, ceil(size[0] / i.stride), ceil(size[1] / i.stride))
                for i in network.feature_info
            }
            assert real == declared
    assert max(info.stride for info in network.feature_info) == DEEPEST[name]


@pytest.mark.parametrize(
    ("name", "strides"),
    [
        ("vgg11", {"c2": 4, "c3": 8, "c4": 16, "c5": 32}),
        ("test_convnext", {"c2": 4, "c3": 8, "c4": 16, "c5": 32}),
        ("levit_128s", {"c4": 16, "c5": 32, "c6": 64}),
        ("vit_tiny_patch16_224", {"c1": 16, "c2": 16, "c3": 16}),
    ],
)
def test_features_are_named_by_stride_where_that_tells_them_apart(name: str, strides: dict[str, int]) -> None:
    with torch.device("meta"):
        info = vertebra.create_backbone(f"timm/{name}").feature_info
    assert {i.name: i.stride for i in info} == strides


@pytest.mark.parametrize("name", NETWORKS)
def test_a_classifiers_weights_give_timms_features(name: str, tmp_path: Path, randomise_statistics: Randomise) -> None:
    classifier = randomise_statistics(timm.create_model(name)).state_dict()
    reference = timms_own(name, classifier, tmp_path / "weights.pt").eval()
    network = everything(name).eval()
    report = vertebra.load_weights(network, classifier)
    assert not report.kept
    assert len(report.loaded) + len(report.dropped) == len(classifier)
    size = reference.pretrained_cfg["input_size"][-2:] if name.startswith(("swin", "vit")) else (64, 96)
    images = torch.randn(1, 3, *size)
    with torch.no_grad():
        expected = reference(images)
        found = list(network(images).values())
    channels_last = name.startswith("swin")
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.equal(ours, theirs.permute(0, 3, 1, 2) if channels_last else theirs)


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv3_small_050", "xception41", "vit_tiny_patch16_224"])
def test_own_weights_round_trip(name: str) -> None:
    first = vertebra.create_backbone(f"timm/{name}")
    second = vertebra.create_backbone(f"timm/{name}")
    report = vertebra.load_weights(second, first.state_dict())
    assert not report.renamed
    assert not report.dropped
    for key, value in second.state_dict().items():
        assert torch.equal(value, first.state_dict()[key])


def test_weights_that_miss_or_bring_something_are_refused() -> None:
    network = vertebra.create_backbone("timm/regnetx_002")
    state = timm.create_model("regnetx_002").state_dict()
    del state["s4.b1.conv1.conv.weight"]
    state["surprise"] = torch.zeros(1)
    with pytest.raises(vertebra.InputError, match=r"1 keys are missing .*; 1 keys are unexpected \(as 'surprise'\)"):
        vertebra.load_weights(network, state)


@pytest.mark.parametrize("name", NETWORKS)
def test_rgb_weights_fit_one_channel_as_timm_fits_them(name: str, tmp_path: Path) -> None:
    classifier = timm.create_model(name).state_dict()
    reference = timms_own(name, classifier, tmp_path / "weights.pt", in_chans=1)
    network = everything(name, in_channels=1, weights=classifier)
    first = next(module for module in network.modules() if isinstance(module, nn.Conv2d))
    assert torch.equal(first.weight, next(m for m in reference.modules() if isinstance(m, nn.Conv2d)).weight)
    assert len(network.preprocessing.mean) == 1
    assert network.preprocessing.mean[0] == pytest.approx(sum(reference.pretrained_cfg["mean"]) / 3)


def test_fewer_features_build_less() -> None:
    network = vertebra.create_backbone("timm/resnet18", out_features=("c3", "c2"))
    assert [info.name for info in network.feature_info] == ["c2", "c3"]
    classifier = timm.create_model("resnet18").state_dict()
    report = vertebra.load_weights(network, classifier)
    assert {key.split(".")[0] for key in report.dropped} == {"layer3", "layer4", "fc"}
    sum(feature.square().mean() for feature in network(torch.randn(2, 3, 64, 64)).values()).backward()
    assert all(p.grad is not None for p in network.parameters())


@pytest.mark.parametrize(
    ("name", "count", "frozen"),
    [
        ("resnet18", 1, ("conv1.", "bn1.")),
        ("resnet18", 2, ("conv1.", "bn1.", "layer1.")),
        ("test_convnext", 1, ("stem_",)),
        ("test_convnext", 2, ("stem_", "stages_0.")),
        ("vgg11", 1, ("features_0.", "features_3.")),
        ("mobilenetv3_small_050", 2, ("conv_stem.", "bn1.", "blocks_0.")),
    ],
)
def test_frozen_stages_survive_training(name: str, count: int, frozen: tuple[str, ...]) -> None:
    network = vertebra.create_backbone(f"timm/{name}", frozen_stages=count)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    network.eval()
    network.train()
    optimiser = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=0.1)
    sum(feature.square().mean() for feature in network(torch.randn(2, 3, 64, 64)).values()).backward()
    optimiser.step()
    for key, parameter in network.named_parameters():
        assert parameter.requires_grad is not key.split(".", 1)[1].startswith(frozen), key
    for key, value in network.state_dict().items():
        if key.split(".", 1)[1].startswith(frozen):
            assert torch.equal(value, before[key]), key
        elif key.endswith("running_mean"):
            assert not torch.equal(value, before[key]), key


@pytest.mark.parametrize("name", WHOLE[-1:])
def test_a_network_that_timm_runs_as_a_whole_says_what_it_cannot_do(name: str) -> None:
    with torch.device("meta"), pytest.raises(vertebra.InputError, match="TimmWhole cannot be frozen by stage"):
        vertebra.create_backbone(f"timm/{name}", frozen_stages=1)
    with torch.device("meta"), pytest.raises(vertebra.InputError, match="TimmWhole cannot recompute"):
        vertebra.create_backbone(f"timm/{name}", checkpointing=True)


@pytest.mark.parametrize("stride", [8, 16])
@pytest.mark.parametrize("name", ["resnet18", "test_convnext", "mobilenetv3_small_050"])
def test_output_stride(name: str, stride: int) -> None:
    with torch.device("meta"):
        network = vertebra.create_backbone(f"timm/{name}", output_stride=stride)
        features = network(torch.empty(1, 3, 97, 131))
    assert [(i.name, i.stride) for i in network.feature_info] == [(f"c{i}", min(2**i, stride)) for i in (2, 3, 4, 5)]
    for info in network.feature_info:
        assert features[info.name].shape[-2:] == (ceil(97 / info.stride), ceil(131 / info.stride))


@pytest.mark.parametrize("name", ["swin_tiny_patch4_window7_224", "vgg11", "densenet121", "hrnet_w18_small"])
def test_output_stride_that_timm_cannot_do(name: str) -> None:
    with pytest.raises(vertebra.InputError, match=f"timm/{name} cannot do output_stride=16: .+"):
        vertebra.create_backbone(f"timm/{name}", output_stride=16)


def test_a_vision_transformer_is_within_its_own_stride() -> None:
    with torch.device("meta"):
        network = vertebra.create_backbone("timm/vit_tiny_patch16_224", output_stride=16)
    assert {info.stride for info in network.feature_info} == {16}


def drop_chances(network: nn.Module) -> set[float]:
    return {module.drop_prob for module in network.modules() if getattr(module, "drop_prob", None)}


def test_drop_path() -> None:
    with torch.device("meta"):
        assert max(drop_chances(vertebra.create_backbone("timm/test_convnext", drop_path=0.3))) == pytest.approx(0.3)
        # This one drops by default.
        swin = "timm/swin_tiny_patch4_window7_224"
        assert max(drop_chances(vertebra.create_backbone(swin))) == pytest.approx(0.1)
        assert not drop_chances(vertebra.create_backbone(swin, drop_path=0.0))
        assert not drop_chances(vertebra.create_backbone("timm/vgg11", drop_path=0.0))
        with pytest.raises(vertebra.InputError, match=r"timm/vgg11 cannot do drop_path_rate=0\.2: .+"):
            vertebra.create_backbone("timm/vgg11", drop_path=0.2)


@pytest.mark.parametrize("name", ["resnet18", "densenet121", "xception41"])
def test_frozen_norms(name: str, randomise_statistics: Randomise) -> None:
    network = vertebra.create_backbone(f"timm/{name}", norm="frozen_batch")
    images = torch.randn(1, 3, 64, 96)
    with pytest.raises(vertebra.InputError, match="never given statistics: load weights first"):
        network(images)
    classifier = randomise_statistics(timm.create_model(name)).state_dict()
    # Also as a part of a model that is loaded as a whole.
    model = nn.ModuleDict({"backbone": vertebra.create_backbone(f"timm/{name}", norm="frozen_batch")})
    vertebra.load_weights(network, classifier)
    model.load_state_dict({f"backbone.{key}": value for key, value in network.state_dict().items()})
    reference = vertebra.create_backbone(f"timm/{name}", weights=classifier).eval()
    for key, expected in reference(images).items():
        for loaded in (network.train(), model["backbone"].train()):
            torch.testing.assert_close(loaded(images)[key], expected, rtol=1e-3, atol=1e-4)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in network.modules())


def test_other_norms(randomise_statistics: Randomise) -> None:
    with torch.device("meta"):
        network = vertebra.create_backbone("timm/resnet18", norm="sync_batch")
        # The stem's, two in each of eight blocks, and one in each of three projections.
        assert sum(isinstance(module, nn.SyncBatchNorm) for module in network.modules()) == 1 + 16 + 3
        with pytest.raises(vertebra.InputError, match="timm/resnet18 keeps its own norms"):
            vertebra.create_backbone("timm/resnet18", norm="group")
        for norm in ("frozen_batch", "sync_batch"):
            with pytest.raises(vertebra.InputError, match="timm/test_convnext has no batch norm"):
                vertebra.create_backbone("timm/test_convnext", norm=norm)
        with pytest.raises(
            vertebra.InputError, match="timm/levit_128s has no batch norm of maps|batch norms of vectors"
        ):
            vertebra.create_backbone("timm/levit_128s", norm="frozen_batch")


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv3_small_050"])
def test_recomputing_changes_nothing(name: str) -> None:
    images = torch.randn(2, 3, 64, 96)
    networks = [vertebra.create_backbone(f"timm/{name}", checkpointing=again) for again in (False, True)]
    networks[1].load_state_dict(networks[0].state_dict())
    outputs = [network.train()(images) for network in networks]
    for features in outputs:
        sum(feature.square().mean() for feature in features.values()).backward()
    for key, value in outputs[0].items():
        assert torch.equal(value, outputs[1][key])
    for plain, again in zip(networks[0].parameters(), networks[1].parameters(), strict=True):
        assert plain.grad is not None
        assert again.grad is not None
        assert torch.equal(plain.grad, again.grad)
    for plain, again in zip(networks[0].buffers(), networks[1].buffers(), strict=True):
        assert torch.equal(plain, again)


def test_recomputing_keeps_less() -> None:
    def kept(again: bool) -> int:
        network = vertebra.create_backbone("timm/resnet18", checkpointing=again).train()
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x: (sizes.append(x.numel()), x)[1], lambda x: x):
            network(torch.randn(1, 3, 64, 64))
        return sum(sizes)

    assert kept(True) < kept(False) / 3


def test_a_network_of_one_size_takes_what_fits_into_it() -> None:
    network = vertebra.create_backbone("timm/test_vit_relpos").eval()
    reference = timm.create_model("test_vit_relpos").eval()
    vertebra.load_weights(network, reference.state_dict())
    images = torch.randn(1, 3, 160, 160)
    with torch.no_grad():
        expected = reference.forward_intermediates(images, indices=3, intermediates_only=True)
        for ours, theirs in zip(network(images).values(), expected, strict=True):
            assert torch.equal(ours, theirs)
        assert network(torch.randn(1, 3, 70, 33))["c1"].shape[-2:] == (5, 3)
        with pytest.raises(vertebra.InputError, match="takes images of up to 160x160, these are 64x161"):
            network(torch.randn(1, 3, 64, 161))


def test_names() -> None:
    with pytest.raises(vertebra.InputError, match=r"unknown backbone 'timm/resnet5O'\. Did you mean 'timm/resnet50'"):
        vertebra.create_backbone("timm/resnet5O")
    with pytest.raises(
        vertebra.InputError, match=r"unknown backbone 'timm/resnet18\.a1_in2k'.*'timm/resnet18\.a1_in1k'"
    ):
        vertebra.create_backbone("timm/resnet18.a1_in2k")
    with torch.device("meta"):
        # A tag brings the preprocessing of its weights.
        assert vertebra.create_backbone("timm/convnext_tiny.fb_in1k").preprocessing == vertebra.Preprocessing()
        inception = vertebra.create_backbone("timm/efficientnet_lite0").preprocessing
    assert inception.mean == timm.create_model("efficientnet_lite0").pretrained_cfg["mean"]


def test_networks_whose_maps_are_not_at_their_strides() -> None:
    for name in ("inception_v3", "crossvit_9_240"):
        with pytest.raises(vertebra.InputError, match=rf"timm/{name} does not give features of ceil\(size / stride\)"):
            vertebra.create_backbone(f"timm/{name}")


def test_networks_without_features(monkeypatch: pytest.MonkeyPatch) -> None:
    # Every network of this version of timm has features; those of older ones raise this.
    def refuse(name: str, features_only: bool = False, **options: Any) -> None:
        raise RuntimeError("features_only not implemented for Vision Transformer models.")

    monkeypatch.setattr(timm, "create_model", refuse)
    with pytest.raises(
        vertebra.InputError, match=r"timm/resnet18 gives no feature maps \(features_only not implemented"
    ):
        vertebra.create_backbone("timm/resnet18")


def test_without_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(vertebra.InputError, match="timm/resnet18 needs the package timm: pip install timm"):
        vertebra.create_backbone("timm/resnet18")
