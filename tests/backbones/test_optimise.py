"""An optimised model finds what the model finds, and leaves the model alone."""

import logging
from dataclasses import replace

import pytest
import torch
from torch import nn

import vertebra
from vertebra import InputError, create_backbone, create_model, optimize
from vertebra.backbones import processor
from vertebra.backbones.fast_convs import TransformedConv2d

SIZE = (96, 128)


def calibrated(model: nn.Module) -> nn.Module:
    """Give norms statistics of an image, so that activations neither vanish nor explode with depth."""

    def measure(norm: nn.BatchNorm2d, inputs: tuple[torch.Tensor]) -> None:
        variance, mean = torch.var_mean(inputs[0], dim=(0, 2, 3), correction=0)
        norm.running_mean.copy_(mean)
        norm.running_var.fill_(variance.mean())

    hooks = [m.register_forward_pre_hook(measure) for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    with torch.no_grad():
        model.eval()([torch.rand(3, *SIZE)])
    for hook in hooks:
        hook.remove()
    return model


def segmenter() -> nn.Module:
    torch.manual_seed(0)
    row = replace(vertebra.head_row("deeplabv3"), test_size=None, aspp_channels=64)
    return calibrated(create_model(row, backbone="resnet18", num_classes=5))


def detector(head: str) -> nn.Module:
    torch.manual_seed(0)
    row = replace(
        vertebra.head_row(head),
        test_size=None,
        rpn_post_nms_top_n_test=50,
        box_detections_per_img=10,
        box_head_channels=64,
    )
    return calibrated(create_model(row, backbone="resnet18", num_classes=4))


def test_a_segmenter_gives_the_same_logits() -> None:
    """DeepLab has convolutions with holes, in its backbone and its head."""
    model = segmenter()
    images = [torch.rand(3, *SIZE), torch.rand(3, 80, 100)]
    fast = optimize(model)
    assert sum(isinstance(module, TransformedConv2d) for module in fast.modules()) > 10
    with torch.no_grad():
        for one, other in zip(model.logits(images), fast.logits(images), strict=True):
            torch.testing.assert_close(other, one, rtol=0, atol=1e-4 * float(one.abs().max()))


def test_a_detector_finds_the_same() -> None:
    model = detector("mask_rcnn").double()
    images = [torch.rand(3, *SIZE, dtype=torch.float64)]
    with torch.no_grad():
        (one,), (other,) = model(images), optimize(model)(images)
    assert len(one["boxes"]) > 5
    for key, value in one.items():
        torch.testing.assert_close(other[key], value, rtol=0, atol=1e-6)


def test_the_model_stays_as_it_was() -> None:
    model = create_backbone("resnet18").train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    optimize(model)
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    for key, value in model.state_dict().items():
        torch.testing.assert_close(value, before[key], rtol=0, atol=0)


@pytest.mark.parametrize("name", ["resnet18", "resnetv2_50", "timm/convnext_atto"])
def test_bfloat16(name: str) -> None:
    """Features come in bfloat16, near those of float32, whatever norms there are."""
    torch.manual_seed(0)
    network = create_backbone(name).eval()
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        wanted, found = network(images), optimize(network, dtype="bfloat16")(images)
    for feature, value in wanted.items():
        assert found[feature].dtype == torch.bfloat16
        # 8 bits of mantissa: a few per cent after dozens of layers.
        assert float((found[feature].float() - value).norm() / value.norm()) < 0.05


@pytest.mark.parametrize("known", [True, False])
def test_a_cpu_without_bfloat16_is_told(
    known: bool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processor, "has_fast_bfloat16", lambda device: known)
    processor.tell_of_slow_bfloat16.cache_clear()
    with caplog.at_level(logging.WARNING, "vertebra"):
        optimize(create_backbone("resnet18", out_features=("c2",)), dtype="bfloat16")
    assert ("no instructions for bfloat16" in caplog.text) != known


def test_boxes_stay_exact_in_bfloat16() -> None:
    model = detector("faster_rcnn")
    with torch.no_grad():
        (found,) = optimize(model, dtype="bfloat16")([torch.rand(3, *SIZE)])
    assert len(found["boxes"])
    assert found["boxes"].dtype == found["scores"].dtype == torch.float32


def test_shapes_to_pad_to() -> None:
    model = segmenter()
    fast = optimize(model, pad_to=[(128, 160)])
    assert fast.pad_to == ((128, 160),)
    assert model.pad_to == ()
    with pytest.raises(InputError, match="heads of ours; Trunk"):
        optimize(create_backbone("resnet18"), pad_to=[(128, 160)])


@pytest.mark.slow  # it compiles C++
def test_compiled_it_is_the_same() -> None:
    network = create_backbone("resnet18", out_features=("c2",)).eval()
    fast = optimize(network, compiled=True)
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(fast(images)["c2"], network(images)["c2"], rtol=1e-4, atol=1e-4)


def test_unknown_dtype() -> None:
    with pytest.raises(InputError, match="unknown dtype 'float8'"):
        optimize(create_backbone("resnet18"), dtype="float8")
