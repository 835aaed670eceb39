"""The families against their papers and torchvision: blocks, initial values, stochastic depth, recomputing."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
import torchvision
from torch import nn

import vertebra
from vertebra.backbones import Convs
from vertebra.backbones.blocks import PreActBlock
from vertebra.backbones.highway import HighwayLayer
from vertebra.backbones.placement import SpacedAverage, SpacedMax
from vertebra.backbones.references import CLASSIFIERS, REFERENCES, reference
from vertebra.backbones.residual import Residual, drop_batches
from vertebra.backbones.shortcuts import ZeroPad, project


def parameters(backbone: Any, classes: int = 0, classifier: str = "linear") -> int:
    with torch.device("meta"):
        network = vertebra.create_backbone(backbone)
    own = sum(p.numel() for p in network.parameters())
    return own + (CLASSIFIERS[classifier](network.feature_info, classes) if classes else 0)


@pytest.mark.parametrize("name", [name for name, found in REFERENCES.items() if found.parameters])
def test_parameters_equal_the_published(name: str) -> None:
    published = reference(name)
    assert parameters(name, published.classes, published.classifier) == published.parameters


@pytest.mark.parametrize(
    ("name", "count"),  # CIFAR-100's classifier; Wide ResNet's and pre-activation's tables
    [("wrn16_8", 11_007_540), ("wrn28_10", 36_536_884), ("wrn40_4", 8_972_340), ("resnetv2_164", 1_726_388),
     ("resnetv2_1001", 10_350_836)],
)  # fmt: skip
def test_parameters_with_a_hundred_classes(name: str, count: int) -> None:
    assert parameters(name, 100) == count


@pytest.mark.parametrize(
    ("depth", "count"),
    [(20, 272_474), (32, 466_906), (44, 661_338), (56, 855_770), (110, 1_730_714), (1202, 19_424_026)],
)
def test_option_b_of_the_cifar_depths(depth: int, count: int) -> None:
    assert parameters(replace(vertebra.row(f"resnet{depth}"), shortcut=project), 10) == count


@pytest.mark.parametrize("name", ["densenet121", "resnetv2_18", "vgg16_bn", "resnext50_32x4d"])
def test_a_training_step_equals_the_reference(name: str) -> None:
    """Gradients and running statistics of one of each family, with equal weights."""
    import timm

    torch.manual_seed(0)
    build = timm.create_model if name.startswith("resnetv2") else torchvision.models.get_model
    peer = build(name).double()
    network = vertebra.create_backbone(name).double()
    report = vertebra.load_weights(network, peer.state_dict())
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    theirs = {
        "densenet121": lambda: peer.features(images).relu(),
        "resnetv2_18": lambda: peer.forward_features(images),
        "vgg16_bn": lambda: peer.features(images),
        "resnext50_32x4d": lambda: nn.Sequential(*list(peer.children())[:-2])(images),
    }[name]()
    theirs.square().sum().backward()
    list(network(images).values())[-1].square().sum().backward()
    own_name = dict(report.renamed)
    ours = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    compared = 0
    for key, value in [*peer.named_parameters(), *peer.named_buffers()]:
        if own_name.get(key, key) not in ours:
            continue
        mine = ours[own_name.get(key, key)]
        found, expected = (mine, value) if value.grad is None else (mine.grad, value.grad)
        assert float((found - expected).abs().max()) <= 1e-8 * max(1.0, float(expected.abs().max())), key
        compared += value.grad is not None
    assert compared == len(list(network.parameters()))


def test_published_densenet_files_have_older_names() -> None:
    peer = torchvision.models.densenet121()
    old = {}
    for key, value in peer.state_dict().items():
        for part in ("norm", "conv"):
            for i in "12":
                if "denselayer" in key:
                    key = key.replace(f".{part}{i}.", f".{part}.{i}.")
        old[key] = value
    assert any(".norm.1." in key for key in old)
    report = vertebra.load_weights(vertebra.create_backbone("densenet121"), old)
    assert report.dropped == ("classifier.bias", "classifier.weight")


def test_the_three_forms_of_resnexts_block_are_equal() -> None:
    """arXiv:1611.05431, figure 3: a sum of paths, paths that are concatenated early, and a grouped convolution."""
    torch.manual_seed(0)
    paths, width, channels = 4, 2, 16
    reduce = nn.Conv2d(channels, paths * width, 1, bias=False).double()
    grouped = nn.Conv2d(paths * width, paths * width, 3, padding=1, groups=paths, bias=False).double()
    restore = nn.Conv2d(paths * width, channels, 1, bias=False).double()
    x = torch.randn(2, channels, 7, 9, dtype=torch.float64)
    as_grouped = restore(grouped(reduce(x)))
    parts = []
    total = torch.zeros_like(x)
    for i in range(paths):
        rows = slice(i * width, (i + 1) * width)
        inner = nn.functional.conv2d(nn.functional.conv2d(x, reduce.weight[rows]), grouped.weight[rows], padding=1)
        parts.append(inner)
        total = total + nn.functional.conv2d(inner, restore.weight[:, rows])
    torch.testing.assert_close(total, as_grouped)
    torch.testing.assert_close(restore(torch.cat(parts, 1)), as_grouped)
    # The registry's row is the grouped form with 32 paths of 4 channels.
    block = vertebra.create_backbone("resnext50_32x4d").layer1[0]
    assert (block.conv2.groups, block.conv2.in_channels) == (32, 128)


def test_option_a_subsamples_and_pads_with_zeros() -> None:
    x = torch.arange(2 * 3 * 3.0).reshape(1, 2, 3, 3)
    found = ZeroPad(2, 2)(x)
    assert found.shape == (1, 4, 2, 2)
    assert found[0, 0].tolist() == [[0, 2], [6, 8]]
    assert not found[0, 2:].any()


@pytest.mark.parametrize("kernels", [(3,), (3, 1), (1, 3, 1), (3, 1, 3)])
def test_any_list_of_kernels(kernels: tuple[int, ...]) -> None:
    """B(…) of Wide ResNet: parameters of one block by hand."""
    row = replace(vertebra.row("wrn16_8"), convs=Convs(kernels), dropout=0.3)
    network = vertebra.create_backbone(row)
    block = network.layer1[1]
    assert isinstance(block, PreActBlock)
    assert sum(p.numel() for p in block.parameters()) == sum(128 * 128 * k * k + 2 * 128 for k in kernels)
    assert network(torch.randn(1, 3, 16, 16))["c4"].shape == (1, 512, 4, 4)


def test_the_strided_convolution_is_a_value() -> None:
    paper = replace(vertebra.row("resnet50"), convs=replace(vertebra.row("resnet50").convs, strided=0))
    for row, strides in (("resnet50", (1, 2)), (paper, (2, 1))):
        block = vertebra.create_backbone(row).layer2[0]
        assert (block.conv1.stride[0], block.conv2.stride[0]) == strides


def test_highway_layers_begin_by_carrying() -> None:
    network = vertebra.create_backbone("highway19")
    layers = [m for m in network.modules() if isinstance(m, HighwayLayer)]
    assert len(layers) == 14  # and three plain, a 1x1 and a classifier make 19
    assert all(float(layer.gate.bias.detach().max()) == -2 for layer in layers)
    x = torch.randn(1, 32, 4, 4)
    layer = layers[0]
    gate = torch.sigmoid(layer.gate(x))
    torch.testing.assert_close(layer(x), layer.transform(x) * gate + x * (1 - gate))


def test_highway_and_plain_sizes_of_the_papers() -> None:
    """2.3 M and 1.25 M parameters (arXiv:1512.03385, table 6)."""
    assert round(parameters("highway19", 10) / 1e6, 1) == 2.2 or round(parameters("highway19", 10) / 1e6, 1) == 2.3
    assert round(parameters("highway32", 10) / 1e6, 2) == 1.25
    assert parameters("plain20") == parameters("resnet20")  # option A has no parameters


@pytest.mark.parametrize(
    ("name", "fan"), [("densenet121", "in"), ("vgg16", "out"), ("resnetv2_50", "out"), ("wrn16_8", "out")]
)
def test_initial_weights_have_he_variance(name: str, fan: str) -> None:
    torch.manual_seed(0)
    network = vertebra.create_backbone(name)
    convs = [m for m in network.modules() if isinstance(m, nn.Conv2d) and m.weight.numel() > 50_000]
    assert len(convs) > 5
    for conv in convs:
        maps = conv.in_channels if fan == "in" else conv.out_channels
        expected = math.sqrt(2 / (conv.kernel_size[0] ** 2 * maps))
        assert float(conv.weight.std()) == pytest.approx(expected, rel=0.02)


def test_residual_branches_of_resnet_d_begin_as_zero() -> None:
    network = vertebra.create_backbone("resnet18d")
    assert all(not block.bn2.weight.any() for block in network.layer2)
    assert bool(vertebra.create_backbone("resnet18").layer2[0].bn2.weight.all())


TINY = Residual((2, 3), vertebra.row("resnet18").convs, widths=(8, 16))


def test_batches_drop_whole_blocks_in_training() -> None:
    torch.manual_seed(0)
    network = vertebra.create_backbone(replace(TINY, drop=drop_batches, drop_path=0.9))
    ran = []
    for stage in (network.layer1, network.layer2):
        for block in stage:
            block.conv1.register_forward_hook(lambda *_: ran.append(1))
    images = torch.randn(2, 3, 32, 32)
    for _ in range(200):
        network(images)
    # Survival of block l of 5 is 1 - 0.9 l / 5, in sum 2.3 of 5 blocks.
    assert len(ran) / 200 == pytest.approx(2.3, abs=0.3)
    ran.clear()
    network.eval()(images)
    assert len(ran) == 5


def test_sd_rows_drop_half_of_the_last_block() -> None:
    network = vertebra.create_backbone("resnet110_sd")
    assert network.layer3.chances[-1] == pytest.approx(0.5)
    assert network.layer1.chances[0] == pytest.approx(0.5 / 54)
    assert not any(vertebra.create_backbone("resnet110_sd", drop_path=0.0).layer3.chances)


def test_a_plain_network_cannot_drop_blocks() -> None:
    with pytest.raises(vertebra.InputError, match="a network without shortcuts has nothing left"):
        vertebra.create_backbone("plain20", drop_path=0.1)


def test_networks_without_norm_refuse_one() -> None:
    with pytest.raises(vertebra.InputError, match="VGG without norm; vgg16_bn"):
        vertebra.create_backbone("vgg16", norm="group")
    with pytest.raises(vertebra.InputError, match="Highway without norm; highway19_bn"):
        vertebra.create_backbone("highway32", norm="sync_batch")


CHECKPOINTED = ("resnet18", "resnetv2_18", "densenet40_k12", "highway19_bn", "vgg16_bn", "wrn16_8_dropout")


@pytest.mark.parametrize("name", [*CHECKPOINTED, "resnet110_sd"])
def test_recomputing_changes_nothing(name: str) -> None:
    """Outputs, gradients and running statistics, to the bit; dropout and dropped blocks drawn alike."""
    torch.manual_seed(0)
    kept = vertebra.create_backbone(name)
    recomputed = vertebra.create_backbone(name, checkpointing=True)
    recomputed.load_state_dict(kept.state_dict())
    images = torch.randn(2, 3, 32, 32)
    for network in (kept, recomputed):
        torch.manual_seed(1)
        sum(feature.square().mean() for feature in network(images).values()).backward()
    for key, value in kept.state_dict().items():
        assert torch.equal(value, recomputed.state_dict()[key]), key
    for (key, ours), other in zip(kept.named_parameters(), recomputed.parameters(), strict=True):
        assert (ours.grad is None) == (other.grad is None), key
        assert ours.grad is None or torch.allclose(ours.grad, other.grad, rtol=1e-5, atol=1e-7), key


def saved_bytes(network: nn.Module, images: torch.Tensor) -> int:
    """Bytes of the distinct tensors that the forward pass keeps for the backward pass."""
    storages: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        network(images)
    held = {p.untyped_storage().data_ptr() for p in network.parameters()}
    return sum(size for pointer, size in storages.items() if pointer not in held)


def test_densenet_keeps_less_than_half_of_torchvisions_activations() -> None:
    torch.manual_seed(0)
    images = torch.randn(1, 3, 64, 64)
    theirs = saved_bytes(torchvision.models.densenet121().features, images)
    assert saved_bytes(vertebra.create_backbone("densenet121"), images) <= 0.45 * theirs


def test_spaced_pools_compute_the_strided_ones_everywhere() -> None:
    x = torch.randn(1, 2, 7, 9)
    average = nn.AvgPool2d(2, 2, ceil_mode=True, count_include_pad=False)
    torch.testing.assert_close(SpacedAverage(1)(x)[..., ::2, ::2], average(x))
    torch.testing.assert_close(SpacedMax(1)(x)[..., ::2, ::2], nn.MaxPool2d(2, 2, ceil_mode=True)(x))
    torch.testing.assert_close(SpacedAverage(2)(x)[..., ::4, ::4], average(x[..., ::2, ::2]))
    torch.testing.assert_close(SpacedMax(2)(x)[..., ::4, ::4], nn.MaxPool2d(2, 2, ceil_mode=True)(x[..., ::2, ::2]))


@pytest.mark.parametrize(("channels", "expected"), [(1, [6.0]), (2, [1.5, 3.0]), (4, [0.75, 1.5, 2.25, 0.75])])
def test_rgb_weights_fit_other_channels(channels: int, expected: list[float]) -> None:
    """Summed for one channel, else repeated in order with the sum kept; by hand for weights 1, 2 and 3."""
    state = vertebra.create_backbone("resnet18").state_dict()
    for i in range(3):
        state["conv1.weight"][:, i] = i + 1
    network = vertebra.create_backbone("resnet18", in_channels=channels)
    report = vertebra.load_weights(network, state)
    assert report.adapted == ("conv1.weight",)
    assert network.conv1.weight[0, :, 0, 0].tolist() == pytest.approx(expected)


def test_preprocessing_follows_a_load() -> None:
    state = vertebra.create_backbone("resnet18").state_dict()
    network = vertebra.create_backbone("resnet18", in_channels=1)
    pyramid = vertebra.create_pyramid(network)
    vertebra.load_weights(network, {"model": state, "preprocessing": {"mean": [0.5] * 3, "std": [0.25] * 3}})
    assert pyramid.preprocessing == vertebra.Preprocessing((0.5,), (0.25,))
