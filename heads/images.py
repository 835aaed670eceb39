"""From a list of images to one padded batch, and boxes back to the pixels of the images that were given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import torch
import torch.nn.functional as F
from torch import Tensor

from ..backbones import InputError, Preprocessing

# Every backbone's deepest default stride: maps of padded images then halve without a remainder.
PAD_MULTIPLE = 32


@dataclass(frozen=True)
class Batch:
    """A padded batch (N, C, H, W), with the size (height, width) of each image in it and as it was given."""

    images: Tensor
    sizes: tuple[tuple[int, int], ...]
    given_sizes: tuple[tuple[int, int], ...]

    def to_batch(self, boxes: Tensor, index: int) -> Tensor:
        """Scale boxes (N, 4) from the given image to the one in the batch."""
        return _scale(boxes, self.given_sizes[index], self.sizes[index])

    def masks_to_batch(self, masks: Tensor, index: int) -> Tensor:
        """Bring masks (N, H, W) of the given image to the size of the one in the batch, by nearest pixels."""
        return nearest(masks, self.sizes[index])

    def to_given(self, boxes: Tensor, index: int) -> Tensor:
        """Scale boxes (N, 4) from the image in the batch to the given one."""
        return _scale(boxes, self.sizes[index], self.given_sizes[index])


def nearest(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """Bring masks (N, H, W) to a size (height, width), by nearest pixels."""
    if masks.shape[-2:] == size or not len(masks):
        return masks
    return F.interpolate(masks[:, None].to(torch.uint8), size=size, mode="nearest").squeeze(1)


def _scale(boxes: Tensor, from_size: tuple[int, int], to_size: tuple[int, int]) -> Tensor:
    height, width = (to / old for to, old in zip(to_size, from_size, strict=True))
    return boxes * boxes.new_tensor([width, height, width, height])


def make_batch(
    images: Sequence[Tensor],
    preprocessing: Preprocessing,
    size: tuple[int, int] | None,
    pad_to: Sequence[tuple[int, int]] = (),
) -> Batch:
    """Normalise, resize and pad images (C, H, W), float in [0, 1] or uint8.

    size: (short, longest): the short side is brought to the first, unless the long one would pass the second; None
    leaves sizes as they are. Padding is zeros, to the smallest shape (H, W) of `pad_to` that all images fit into, or,
    where none does, to the maximum of the batch rounded up to 32.
    """
    if not images:
        raise InputError("the batch holds no image")
    for i, image in enumerate(images):
        if image.ndim != 3 or 0 in image.shape:
            raise InputError(f"image {i} has shape {tuple(image.shape)}; (channels, height, width) is expected")
        # A device is not asked, as the answer would make the host wait: there the loss tells.
        if image.device.type == "cpu" and image.is_floating_point() and not bool(image.isfinite().all()):
            raise InputError(f"image {i} holds NaN or infinite values; give finite ones in [0, 1], or uint8")
    resized = [_resize(preprocessing.normalise(image), size) for image in images]
    height, width = _padded((max(x.shape[-2] for x in resized), max(x.shape[-1] for x in resized)), pad_to)
    batch = resized[0].new_zeros(len(resized), resized[0].shape[0], height, width)
    batch = batch.contiguous(memory_format=_layout(batch.device))
    for place, image in zip(batch, resized, strict=True):
        place[:, : image.shape[-2], : image.shape[-1]] = image
    return Batch(batch, _sizes(resized), _sizes(images))


def _layout(device: torch.device) -> torch.memory_format:
    """Return the memory format in which convolutions, which hand it on, are fastest.

    On a CPU without AVX-512, gradients of weights take two to four times longer in channels_last (oneDNN 3.13).
    """
    slow = device.type == "cpu" and torch.is_grad_enabled() and "AVX512" not in torch.backends.cpu.get_cpu_capability()
    return torch.contiguous_format if slow else torch.channels_last


def _padded(size: tuple[int, int], shapes: Sequence[tuple[int, int]]) -> tuple[int, int]:
    fitting = [shape for shape in shapes if shape[0] >= size[0] and shape[1] >= size[1]]
    if fitting:
        return min(fitting, key=lambda shape: shape[0] * shape[1])
    height, width = (ceil(side / PAD_MULTIPLE) * PAD_MULTIPLE for side in size)
    return height, width


def _sizes(images: Sequence[Tensor]) -> tuple[tuple[int, int], ...]:
    return tuple((image.shape[-2], image.shape[-1]) for image in images)


def _resize(image: Tensor, size: tuple[int, int] | None) -> Tensor:
    if size is None:
        return image
    short, longest = min(image.shape[-2:]), max(image.shape[-2:])
    scale = min(size[0] / short, size[1] / longest)
    if short * scale < 1:
        height, width = image.shape[-2:]
        raise InputError(
            f"an image of {width}x{height} would be less than a pixel wide once it is {size[1]} long; crop it"
        )
    # As torchvision's detectors: the scale is recomputed from the rounded size, without antialiasing.
    return F.interpolate(image[None], scale_factor=scale, mode="bilinear", recompute_scale_factor=True)[0]
