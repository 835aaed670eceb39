"""Winograd's convolution is the convolution: values and gradients."""

import pytest
import torch
import torch.nn.functional as F

from vertebra.backbones import winograd

# One tile and less, rows and columns past the border, several blocks of rows, several images in a block.
SHAPES = [(1, 1, 1), (2, 4, 4), (3, 5, 9), (1, 40, 130), (5, 12, 7)]


@pytest.mark.parametrize(("images", "height", "width"), SHAPES)
def test_it_is_the_convolution(images: int, height: int, width: int) -> None:
    """Value, and the gradients of input and weight, as autograd has them of torch's convolution."""
    torch.manual_seed(0)
    x = torch.randn(images, 3, height, width, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(5, 3, 3, 3, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(5, dtype=torch.float64)
    wanted = F.conv2d(x, weight, bias, padding=1)
    upstream = torch.randn_like(wanted)
    expected = torch.autograd.grad(wanted, (x, weight), upstream)
    with torch.no_grad():
        pixels, gradient = x.permute(0, 2, 3, 1), upstream.permute(0, 2, 3, 1)
        found = winograd.convolve(pixels, winograd.transform(weight), bias)
        of_x = winograd.convolve(gradient, winograd.transform_of_gradient(weight), None)
        of_weight = winograd.weight_gradient(pixels, gradient)
    torch.testing.assert_close(found.permute(0, 3, 1, 2), wanted, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(of_x.permute(0, 3, 1, 2), expected[0], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(of_weight, expected[1], rtol=1e-10, atol=1e-10)


def test_rounding_is_small() -> None:
    """In float32 within 2e-5 of the largest value, over as many channels as detectors have."""
    torch.manual_seed(0)
    x, weight = torch.randn(1, 256, 24, 24), torch.randn(64, 256, 3, 3)
    wanted = F.conv2d(x.double(), weight.double(), padding=1)
    found = winograd.convolve(x.permute(0, 2, 3, 1), winograd.transform(weight), None).permute(0, 3, 1, 2)
    assert float((found - wanted).abs().max() / wanted.abs().max()) < 2e-5
