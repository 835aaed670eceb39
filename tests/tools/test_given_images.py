"""Images as people have them, and what is said of those that a model cannot take."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from vertebra.backbones import InputError
from vertebra.tools.given_images import as_tensor

PIXELS = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
TENSOR = torch.from_numpy(PIXELS.transpose(2, 0, 1).copy())


def test_the_same_image_in_every_form(tmp_path: Path) -> None:
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    for image in (PIXELS, TENSOR, Image.fromarray(PIXELS), tmp_path / "a.png", str(tmp_path / "a.png")):
        found = as_tensor(image)
        assert found.dtype == torch.uint8
        assert torch.equal(found, TENSOR)
    for share in (PIXELS / 255, (PIXELS / 255).astype(np.float32), TENSOR.double() / 255):
        found = as_tensor(share)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, TENSOR / 255)


def test_an_array_is_not_shared() -> None:
    """Of one channel the transposed array is the array itself, which the caller may change, or may not be writable."""
    grey = PIXELS[..., :1].copy()
    grey.flags.writeable = False
    found = as_tensor(grey, channels=1)
    found[:] = 0
    assert grey.any()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK"])
def test_modes_of_pillow(mode: str) -> None:
    image = Image.fromarray(PIXELS).convert(mode)
    assert torch.equal(as_tensor(image), torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1))


def test_turned_as_exif_says(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn a quarter clockwise to show
    Image.fromarray(PIXELS).save(tmp_path / "turned.png", exif=exif)
    with Image.open(tmp_path / "turned.png") as image:
        assert torch.equal(as_tensor(image), as_tensor(tmp_path / "turned.png"))
    assert torch.equal(as_tensor(tmp_path / "turned.png"), TENSOR.rot90(-1, (1, 2)))


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (PIXELS[..., 0], r"array of shape \(9, 7\) .* np\.stack\(\[image\] \* 3, axis=-1\)"),
        (PIXELS[..., :1], r"\(9, 7, 1\) .* image\.repeat\(3, axis=2\)"),
        (np.dstack([PIXELS, PIXELS[..., :1]]), r"\(9, 7, 4\) .* leave alpha out, image\[\.\.\., :3\]"),
        (PIXELS.transpose(2, 0, 1), r"\(3, 9, 7\) .* image\.transpose\(1, 2, 0\)"),
        (PIXELS[None], r"\(1, 9, 7, 3\) .* list\(images\)"),
        (PIXELS.astype(np.float32), r"floats from 0 to 2\d\d came; .* divide by 255, or give uint8"),
        (PIXELS / 127.5 - 1, r"floats from -1 to .* as it was before it was normalised"),
        (np.full((9, 7, 3), np.nan), "holds NaN or infinite values"),
        (PIXELS.astype(np.int64), r"torch\.int64 came; uint8, uint16, or floats from 0 to 1"),
        (PIXELS.astype(object), "array of object came; uint8"),
        (PIXELS[:0], r"\(3, 0, 7\) came"),
        (TENSOR[0], r"tensor of shape \(9, 7\) .* image\.expand\(3, -1, -1\)"),
        (TENSOR[:1], r"\(1, 9, 7\) .* image\.expand\(3, -1, -1\)"),
        (TENSOR.permute(1, 2, 0), r"\(9, 7, 3\) .* image\.permute\(2, 0, 1\)"),
        (TENSOR[None], r"\(1, 3, 9, 7\) .* list\(images\)"),
        (TENSOR.float(), "divide by 255"),
        (Image.new("I;16", (7, 9)), "mode I;16 came to a model of 3 channels; give an array"),
        (Image.new("F", (7, 9)), "mode F came"),
        (5, "an object of type int came as an image; a path, an array"),
        (None, "an object of type NoneType came"),
        ("absent.jpg", r"image absent\.jpg cannot be read"),
    ],
)
def test_what_is_refused(image: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        as_tensor(image)


@pytest.mark.parametrize(
    ("image", "mended"),
    [
        (PIXELS[..., 0], lambda image: np.stack([image] * 3, axis=-1)),
        (PIXELS[..., :1], lambda image: image.repeat(3, axis=2)),
        (np.dstack([PIXELS, PIXELS[..., :1]]), lambda image: image[..., :3]),
        (PIXELS.transpose(2, 0, 1), lambda image: image.transpose(1, 2, 0)),
        (TENSOR[0], lambda image: image.expand(3, -1, -1)),
        (TENSOR[:1], lambda image: image.expand(3, -1, -1)),
        (TENSOR.permute(1, 2, 0), lambda image: image.permute(2, 0, 1)),
    ],
)
def test_the_advice_is_right(image: Any, mended: Any) -> None:
    assert as_tensor(mended(image)).shape == (3, 9, 7)


def test_other_channels() -> None:
    five = np.zeros((9, 7, 5), np.uint16)
    assert as_tensor(five, channels=5).shape == (5, 9, 7)
    with pytest.raises(InputError, match=r"\(height, width, 5\) is expected"):
        as_tensor(PIXELS, channels=5)
    with pytest.raises(InputError, match="mode RGB came to a model of 5 channels"):
        as_tensor(Image.fromarray(PIXELS), channels=5)
