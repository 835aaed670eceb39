"""timm's networks keep our contract, and give what timm gives where timm gives the same sizes."""

import sys
from collections.abc import Callable
from functools import cache
from math import ceil
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

import vertebra
from vertebra.backbones.timm_networks import TimmBackbone, TimmNetwork

Randomise = Callable[[nn.Module], nn.Module]

# In a row; flattened by us; channels last; in two parts; with a class of its own; with hooks; through a getter, at
# strides that are all the same.
ROWS = ("resnet18", "test_convnext", "vgg11", "densenet121", "regnetx_002")
FLATTENED = ("efficientnet_lite0", "mobilenetv3_small_050")
SWIN, PARTS, OWN, HOOKS, GETTER = (
    "swin_tiny_patch4_window7_224",
    "dpn48b",
    "hrnet_w18_small",
    "xception41",
    "vit_tiny_patch16_224",
)
NETWORKS = (*ROWS, *FLATTENED, SWIN, PARTS, OWN, HOOKS, GETTER)


def everything(name: str, in_channels: int = 3) -> TimmBackbone:
    """Return a network with all its features, whatever the default ones are."""
    return TimmNetwork(name)(in_channels=in_channels, output_stride=32, norm=nn.BatchNorm2d)


@cache
def on_meta(name: str) -> TimmBackbone:
    """Return the same without memory, for tests that change nothing."""
    with torch.device("meta"):
        return everything(name)


@pytest.mark.parametrize("name", NETWORKS)
def test_declared_features_are_the_real_ones(name: str) -> None:
    network = on_meta(name)
    with torch.device("meta"):
        for size in [(64, 96), (97, 131), (1, 1)]:
            real = {key: tuple(value.shape) for key, value in network(torch.empty(2, 3, *size)).items()}
            declared = {
                i.name: (2, i.channels, ceil(size[0] / i.stride), ceil(size[1] / i.stride))
                for i in network.feature_info
            }
            assert real == declared


@pytest.mark.parametrize(
    ("name", "strides"),
    [
        ("vgg11", {"c2": 4, "c3": 8, "c4": 16, "c5": 32}),
        ("test_convnext", {"c2": 4, "c3": 8, "c4": 16, "c5": 32}),
        ("levit_128s", {"c4": 16, "c5": 32, "c6": 64}),
        ("test_vit", {"c1": 16, "c2": 16, "c3": 16}),
    ],
)
def test_features_are_named_by_stride_where_that_tells_them_apart(name: str, strides: dict[str, int]) -> None:
    with torch.device("meta"):
        info = vertebra.create_backbone(f"timm/{name}").feature_info
    assert {i.name: i.stride for i in info} == strides


# VGG's classifier and DenseNet take seconds to initialise.
@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[pytest.mark.slow] if n in ("vgg11", "densenet121", HOOKS) else []) for n in NETWORKS],
)
def test_a_classifiers_weights_give_timms_features(name: str, tmp_path: Path, randomise_statistics: Randomise) -> None:
    classifier = randomise_statistics(timm.create_model(name)).state_dict()
    network = everything(name).eval()
    report = vertebra.load_weights(network, classifier)
    assert not report.kept
    assert len(report.loaded) + len(report.dropped) == len(classifier)
    torch.save(classifier, tmp_path / "weights.pt")
    overlay = {"file": str(tmp_path / "weights.pt")}
    reference = timm.create_model(name, features_only=True, pretrained=True, pretrained_cfg_overlay=overlay).eval()
    size = (224, 224) if name in (SWIN, GETTER) else (64, 96)
    images = torch.randn(1, 3, *size)
    with torch.no_grad():
        expected, found = reference(images), network(images)
    assert len(found) == len(expected)
    for ours, theirs in zip(found.values(), expected, strict=True):
        assert torch.equal(ours, theirs.permute(0, 3, 1, 2) if name == SWIN else theirs)


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv3_small_050", "test_vit"])
def test_own_weights_round_trip(name: str) -> None:
    first, second = (vertebra.create_backbone(f"timm/{name}") for _ in range(2))
    report = vertebra.load_weights(second, first.state_dict())
    assert report.renamed == report.dropped == report.kept == ()
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
def test_rgb_weights_fit_one_channel(name: str) -> None:
    with torch.device("meta"):
        network = everything(name, in_channels=1)
        report = vertebra.load_weights(network, on_meta(name).state_dict())
    assert len(report.adapted) == 1
    shapes = {key: value.shape for key, value in network.state_dict().items()}
    assert shapes[report.adapted[0]][1] == 1
    assert len(network.preprocessing.mean) == 1


def test_rgb_weights_are_summed() -> None:
    classifier = timm.create_model("resnet18").state_dict()
    network = vertebra.create_backbone("timm/resnet18", in_channels=1, weights=classifier)
    first = next(module for module in network.modules() if isinstance(module, nn.Conv2d))
    assert torch.equal(first.weight, classifier["conv1.weight"].sum(dim=1, keepdim=True))


def test_fewer_features_build_less() -> None:
    network = vertebra.create_backbone("timm/resnet18", out_features=("c3", "c2"))
    assert [info.name for info in network.feature_info] == ["c2", "c3"]
    report = vertebra.load_weights(network, timm.create_model("resnet18").state_dict())
    assert {key.split(".")[0] for key in report.dropped} == {"layer3", "layer4", "fc"}
    sum(feature.square().mean() for feature in network(torch.randn(2, 3, 64, 64)).values()).backward()
    assert all(p.grad is not None for p in network.parameters())


@pytest.mark.parametrize(
    ("name", "stem", "first"),
    [
        ("resnet18", ("conv1.", "bn1."), ("layer1.",)),
        ("test_convnext", ("stem_",), ("stages_0.",)),
        ("vgg11", ("features_0.", "features_3."), ("features_6.", "features_8.")),
        ("mobilenetv3_small_050", ("conv_stem.", "bn1."), ("blocks_0.",)),
        (SWIN, ("patch_embed.",), ("layers_0.",)),
    ],
)
def test_stages_are_counted_as_ours(name: str, stem: tuple[str, ...], first: tuple[str, ...]) -> None:
    network = on_meta(name)
    stages = network.stages()
    assert len(stages) == 5
    for stage, expected in zip(stages, (stem, first), strict=False):
        inside = {id(parameter) for module in stage for parameter in module.parameters()}
        for key, parameter in network.named_parameters():
            assert (id(parameter) in inside) is key.split(".", 1)[1].startswith(expected), key


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv3_small_050"])
def test_frozen_stages_survive_training(name: str) -> None:
    network = vertebra.create_backbone(f"timm/{name}", frozen_stages=2)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    network.eval()
    network.train()
    optimiser = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=0.1)
    sum(feature.square().mean() for feature in network(torch.randn(2, 3, 64, 64)).values()).backward()
    optimiser.step()
    for key, parameter in network.named_parameters():
        assert parameter.requires_grad is not key.startswith(("to_c1.", "to_c2.")), key
    for key, value in network.state_dict().items():
        if key.startswith(("to_c1.", "to_c2.")):
            assert torch.equal(value, before[key]), key
        elif "running" in key:
            assert not torch.equal(value, before[key]), key


def test_what_timm_runs_as_a_whole_says_what_it_cannot_do() -> None:
    with torch.device("meta"):
        with pytest.raises(vertebra.InputError, match="TimmWhole cannot be frozen by stage"):
            vertebra.create_backbone("timm/test_vit", frozen_stages=1)
        with pytest.raises(vertebra.InputError, match="TimmWhole cannot recompute"):
            vertebra.create_backbone("timm/test_vit", checkpointing=True)


@pytest.mark.parametrize("stride", [8, 16])
@pytest.mark.parametrize("name", ["resnet18", "test_convnext", *FLATTENED])
def test_output_stride(name: str, stride: int) -> None:
    with torch.device("meta"):
        network = vertebra.create_backbone(f"timm/{name}", output_stride=stride)
        features = network(torch.empty(1, 3, 97, 131))
    assert [(i.name, i.stride) for i in network.feature_info] == [(f"c{i}", min(2**i, stride)) for i in (2, 3, 4, 5)]
    for info in network.feature_info:
        assert features[info.name].shape[-2:] == (ceil(97 / info.stride), ceil(131 / info.stride))


def test_dilated_features_are_timms() -> None:
    reference = timm.create_model("resnet18", features_only=True, output_stride=16).eval()
    network = vertebra.create_backbone("timm/resnet18", output_stride=16, weights=reference.state_dict()).eval()
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        for ours, theirs in zip(network(images).values(), reference(images)[1:], strict=True):
            assert torch.equal(ours, theirs)


@pytest.mark.parametrize("name", [SWIN, "vgg11", OWN])
def test_output_stride_that_timm_cannot_do(name: str) -> None:
    with pytest.raises(vertebra.InputError, match=f"timm/{name} cannot do output_stride=16: .+"):
        vertebra.create_backbone(f"timm/{name}", output_stride=16)


def test_a_vision_transformer_is_within_its_own_stride() -> None:
    with torch.device("meta"):
        network = vertebra.create_backbone("timm/test_vit", output_stride=16)
    assert {info.stride for info in network.feature_info} == {16}


def drop_chances(network: nn.Module) -> list[float]:
    return [module.drop_prob for module in network.modules() if getattr(module, "drop_prob", None)]


def test_drop_path() -> None:
    with torch.device("meta"):
        assert max(drop_chances(vertebra.create_backbone("timm/test_convnext", drop_path=0.3))) == pytest.approx(0.3)
        # This one drops by default (arXiv:2303.03667, appendix: 0.02 for T1).
        assert max(drop_chances(vertebra.create_backbone("timm/fasternet_t1"))) == pytest.approx(0.02)
        assert not drop_chances(vertebra.create_backbone("timm/fasternet_t1", drop_path=0.0))
        assert not drop_chances(vertebra.create_backbone("timm/vgg11", drop_path=0.0))
        with pytest.raises(vertebra.InputError, match=r"timm/vgg11 cannot do drop_path_rate=0\.2: .+"):
            vertebra.create_backbone("timm/vgg11", drop_path=0.2)


@pytest.mark.parametrize("name", ["resnet18", "regnetx_002", "mobilenetv3_small_050", OWN])
def test_frozen_norms(name: str, randomise_statistics: Randomise) -> None:
    network = vertebra.create_backbone(f"timm/{name}", norm="frozen_batch")
    images = torch.randn(1, 3, 64, 96)
    with pytest.raises(vertebra.InputError, match="never given statistics: load weights first"):
        network(images)
    reference = randomise_statistics(vertebra.create_backbone(f"timm/{name}")).eval()
    # As a part of a model that is loaded as a whole.
    nn.ModuleDict({"backbone": network}).load_state_dict(
        {f"backbone.{key}": value for key, value in reference.state_dict().items()}
    )
    assert not any(isinstance(module, nn.BatchNorm2d) for module in network.modules())
    with torch.no_grad():
        found = network.train()(images)
        for key, expected in reference(images).items():
            torch.testing.assert_close(found[key], expected, rtol=1e-3, atol=1e-4 * expected.abs().max().item())


def test_frozen_norms_of_a_network_cut_short() -> None:
    classifier = timm.create_model("regnetx_002").state_dict()
    network = vertebra.create_backbone("timm/regnetx_002", out_features=("c3",), norm="frozen_batch")
    vertebra.load_weights(network, classifier)
    network(torch.randn(1, 3, 64, 64))


def test_other_norms() -> None:
    with torch.device("meta"):
        network = vertebra.create_backbone("timm/resnet18", norm="sync_batch")
        # The stem's, two in each of eight blocks, and one in each of three projections.
        assert sum(isinstance(module, nn.SyncBatchNorm) for module in network.modules()) == 1 + 16 + 3
        with pytest.raises(vertebra.InputError, match="timm/resnet18 keeps its own norms"):
            vertebra.create_backbone("timm/resnet18", norm="group")
        for norm in ("frozen_batch", "sync_batch"):
            with pytest.raises(vertebra.InputError, match="timm/test_convnext has no batch norm"):
                vertebra.create_backbone("timm/test_convnext", norm=norm)
        with pytest.raises(vertebra.InputError, match="timm/levit_128s also has batch norms of vectors"):
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
        weights = {parameter.data_ptr() for parameter in network.parameters()}
        sizes: list[int] = []

        def note(x: Tensor) -> Tensor:
            sizes.append(0 if x.data_ptr() in weights else x.numel())
            return x

        with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
            network(torch.randn(1, 3, 64, 64))
        return sum(sizes)

    assert kept(True) < kept(False) / 3


def test_a_network_of_one_size_takes_what_fits_into_it() -> None:
    network = vertebra.create_backbone("timm/test_vit_relpos").eval()
    reference = timm.create_model("test_vit_relpos").eval()
    vertebra.load_weights(network, reference.state_dict())
    images = torch.randn(1, 3, 160, 160)
    with torch.no_grad():
        expected: Any = reference.forward_intermediates(images, indices=3, intermediates_only=True)
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
    assert "timm/convnext_tiny" in vertebra.list_backbones("timm/conv*")


def test_a_tag_brings_the_preprocessing_of_its_weights() -> None:
    # timm: Microsoft's BEiT is normalised to [-1, 1], the augreg weights too; DINO's are as ImageNet's.
    with torch.device("meta"):
        augreg = vertebra.create_backbone("timm/vit_small_patch16_224.augreg_in1k").preprocessing
        dino = vertebra.create_backbone("timm/vit_small_patch16_224.dino").preprocessing
    assert augreg.mean == (0.5, 0.5, 0.5)
    assert dino == vertebra.Preprocessing()


def test_a_network_whose_maps_are_not_at_their_strides() -> None:
    # Its convolutions do not pad.
    with pytest.raises(vertebra.InputError, match=r"timm/inception_v3 does not give features of ceil\(size / stride\)"):
        vertebra.create_backbone("timm/inception_v3")


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
