"""The pictures of a report's images: small enough that 48 of them make no heavy page."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from ..draw import as_rgb, encode_picture

# Pixels of the longer side, and Pillow's quality: about 100 kB.
LONGEST, QUALITY = 1200, 75


def card_picture(image: Tensor) -> bytes:
    """Return an image (3, H, W), uint8 RGB, as a JPEG, made smaller where its longer side has more than 1200 pixels."""
    image = as_rgb(image)
    scale = LONGEST / max(image.shape[-2:])
    if scale < 1:
        size = [max(1, round(side * scale)) for side in image.shape[-2:]]
        image = F.interpolate(image[None].float(), size=size, mode="bilinear", antialias=True)[0].round().byte()
    return encode_picture(image, QUALITY)
