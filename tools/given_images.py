"""From what people have as an image to what a model takes: files, arrays, tensors and images of Pillow."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..backbones import InputError
from .data.images import RGB, Array, Files

if TYPE_CHECKING:
    from PIL.Image import Image as PilImage

    Given = str | os.PathLike[str] | Array | Tensor | PilImage

# Modes of Pillow that hold colours or greys of eight bits.
EIGHT_BITS = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "LAB")


def as_tensor(image: Given, files: Files = RGB, channels: int = 3) -> Tensor:
    """Return an image as a tensor (channels, height, width), uint8, uint16 or float in [0, 1]; else an InputError.

    Files are turned as their EXIF data says, images of Pillow too, and these become RGB. Arrays and tensors are taken
    as they are; it cannot be seen whether the channels of one are RGB, as they should be.
    """
    if isinstance(image, (str, os.PathLike)):
        return pixels_as_tensor(files.read(Path(image), orient=True))
    if isinstance(image, Tensor):
        return _checked(image, channels)
    if not isinstance(image, np.ndarray):
        image = _of_pillow(image, channels)
    if image.ndim != 3 or image.shape[2] != channels:
        raise InputError(
            f"an array of shape {image.shape} came; (height, width, {channels}) is expected"
            f"{_array_advice(image.shape, channels)}"
        )
    return _checked(pixels_as_tensor(image), channels)


def pixels_as_tensor(pixels: Array) -> Tensor:
    """Return pixels (height, width, channels) as a tensor (channels, height, width)."""
    try:
        return torch.from_numpy(np.array(pixels.transpose(2, 0, 1), order="C"))
    except TypeError as error:
        raise InputError(f"an array of {pixels.dtype} came; uint8, uint16, or floats from 0 to 1 are taken") from error


def _of_pillow(image: Any, channels: int) -> Array:
    from PIL import Image, ImageOps

    if not isinstance(image, Image.Image):
        raise InputError(
            f"an object of type {type(image).__name__} came as an image; a path, an array (height, width, {channels}), "
            f"a tensor ({channels}, height, width), an image of Pillow, or a list of these is taken"
        )
    if channels != 3 or image.mode not in EIGHT_BITS:
        raise InputError(
            f"an image of Pillow with mode {image.mode} came to a model of {channels} channels; give an array "
            f"(height, width, {channels}) of uint8, uint16, or floats from 0 to 1"
        )
    return np.array(ImageOps.exif_transpose(image).convert("RGB"))


def _checked(image: Tensor, channels: int) -> Tensor:
    """Return an image as float32 where it has other floats, if its shape is (channels, height, width) and all sound."""
    shape = tuple(image.shape)
    if image.ndim != 3 or shape[0] != channels or 0 in shape:
        raise InputError(
            f"a tensor of shape {shape} came; ({channels}, height, width) is expected{_tensor_advice(shape, channels)}"
        )
    if image.dtype in (torch.uint8, torch.uint16):
        return image
    if not image.is_floating_point():
        raise InputError(f"an image of {image.dtype} came; uint8, uint16, or floats from 0 to 1 are taken")
    low, high = float(image.min()), float(image.max())
    if not (low >= 0 and high <= 1):
        advice = "divide by 255, or give uint8" if low >= 0 else "give it as it was before it was normalised"
        if not bool(image.isfinite().all()):
            advice = "it holds NaN or infinite values"
        raise InputError(f"an image with floats from {low:g} to {high:g} came; they are to be from 0 to 1: {advice}")
    return image.float()


def _array_advice(shape: tuple[int, ...], channels: int) -> str:
    if len(shape) == 4:
        return ": give several images as a list, list(images)"
    if len(shape) == 2:
        return f": of a grey image give np.stack([image] * {channels}, axis=-1)"
    if len(shape) == 3 and shape[0] == channels:
        return ": its channels seem to come first, so give image.transpose(1, 2, 0)"
    if len(shape) == 3 and shape[2] == 1:
        return f": of a grey image give image.repeat({channels}, axis=2)"
    if len(shape) == 3 and shape[2] == channels + 1:
        return f": leave alpha out, image[..., :{channels}]"
    return ""


def _tensor_advice(shape: tuple[int, ...], channels: int) -> str:
    if len(shape) == 4:
        return ": give several images as a list, list(images)"
    if len(shape) == 2:
        return f": of a grey image give image.expand({channels}, -1, -1)"
    if len(shape) == 3 and shape[2] == channels:
        return ": its channels seem to come last, so give image.permute(2, 0, 1)"
    if len(shape) == 3 and shape[0] == 1:
        return f": of a grey image give image.expand({channels}, -1, -1)"
    if len(shape) == 3 and shape[0] == channels + 1:
        return f": leave alpha out, image[:{channels}]"
    return ""
