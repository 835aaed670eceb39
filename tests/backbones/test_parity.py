"""The same weights give the same features as torchvision's networks; the same number of parameters."""

from collections.abc import Callable

import pytest
import torch
import torchvision
from torch import nn
from torchvision.models._utils import IntermediateLayerGetter

import vertebra

Randomise = Callable[[nn.Module], nn.Module]

NAMES = ["resnet18", "resnet34", "resnet50", "resnet101", "resnet152"]
LAYERS = {"relu": "c1", "layer1": "c2", "layer2": "c3", "layer3": "c4", "layer4": "c5"}
ALL = ("c1", "c2", "c3", "c4", "c5")


def relative_difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("name", NAMES)
def test_parameter_count(name: str) -> None:
    published = torchvision.models.get_model_weights(name).DEFAULT.meta["num_params"]
    with torch.device("meta"):
        network = vertebra.create_backbone(name)
    classifier = (network.feature_info[-1].channels + 1) * 1000
    assert sum(p.numel() for p in network.parameters()) + classifier == published


@pytest.mark.parametrize("name", NAMES)
def test_features_equal_torchvision(name: str, randomise_statistics: Randomise) -> None:
    torch.manual_seed(0)
    reference = randomise_statistics(torchvision.models.get_model(name)).eval()
    network = vertebra.create_backbone(name, out_features=ALL, weights=reference.state_dict()).eval()
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-8)):
            expected = IntermediateLayerGetter(reference.to(dtype), LAYERS)(images.to(dtype))
            found = network.to(dtype)(images.to(dtype))
            for key in ALL:
                assert relative_difference(found[key], expected[key]) < tolerance, (key, dtype)


@pytest.mark.parametrize("output_stride", [8, 16])
def test_dilated_features_equal_torchvision(output_stride: int, randomise_statistics: Randomise) -> None:
    torch.manual_seed(0)
    dilate = [False, output_stride == 8, True]
    reference = randomise_statistics(torchvision.models.resnet50(replace_stride_with_dilation=dilate)).double().eval()
    network = vertebra.create_backbone("resnet50", output_stride=output_stride).double().eval()
    vertebra.load_weights(network, reference.state_dict())
    images = torch.randn(1, 3, 64, 96, dtype=torch.float64)
    with torch.no_grad():
        expected = IntermediateLayerGetter(reference, LAYERS)(images)
        for key, value in network(images).items():
            assert relative_difference(value, expected[key]) < 1e-8, key


def test_training_step_equals_torchvision() -> None:
    """In training mode too: features, gradients, and running statistics after the step."""
    torch.manual_seed(0)
    reference = torchvision.models.resnet18().double()
    network = vertebra.create_backbone("resnet18", weights=reference.state_dict()).double()
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    IntermediateLayerGetter(reference, {"layer4": "c5"})(images)["c5"].sum().backward()
    network(images)["c5"].sum().backward()
    expected = dict(reference.named_parameters())
    for key, parameter in network.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[key].grad, rtol=1e-9, atol=1e-9)
    buffers = dict(reference.named_buffers())
    for key, buffer in network.named_buffers():
        torch.testing.assert_close(buffer, buffers[key])
