"""Images with any channels: files written by other libraries come back as they are."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

import vertebra
from vertebra.tools.data.channels import read_channels

Write = Callable[[Path, Any], object]


def noise(channels: int, dtype: Any, size: tuple[int, int] = (7, 11)) -> Any:
    rng = np.random.default_rng(channels)
    high = 1 if np.dtype(dtype).kind == "f" else np.iinfo(dtype).max
    return (rng.random((*size, channels)) * high).astype(dtype)


def tiff_planes(path: Path, pixels: Any) -> None:
    tifffile.imwrite(path, np.moveaxis(pixels, -1, 0), planarconfig="separate", photometric="minisblack")


def array_planes(path: Path, pixels: Any) -> None:
    np.save(path, np.moveaxis(pixels, -1, 0))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize(
    ("channels", "name", "write"),
    [
        (1, "a.png", lambda path, x: cv2.imwrite(str(path), x)),
        (3, "a.png", lambda path, x: cv2.imwrite(str(path), x[..., ::-1])),
        (4, "a.png", lambda path, x: cv2.imwrite(str(path), x[..., [2, 1, 0, 3]])),
        (3, "a.tif", lambda path, x: tifffile.imwrite(path, x, photometric="rgb")),
        (5, "a.tiff", lambda path, x: tifffile.imwrite(path, x, photometric="minisblack", planarconfig="contig")),
        (5, "a.tif", tiff_planes),
        (7, "a.npy", np.save),
        (7, "a.npy", array_planes),
    ],
)
def test_what_was_written(tmp_path: Path, channels: int, name: str, write: Write, dtype: Any) -> None:
    pixels = noise(channels, dtype)
    write(tmp_path / name, pixels)
    found = read_channels(tmp_path / name, channels)
    assert found.dtype == dtype
    assert np.array_equal(found, pixels)


def test_floats_from_0_to_1(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", noise(2, np.float64))
    found = read_channels(tmp_path / "a.npy", 2)
    assert found.dtype == np.float32
    assert np.array_equal(found, noise(2, np.float64).astype(np.float32))


def test_a_grey_jpeg_has_one_channel(tmp_path: Path) -> None:
    Image.fromarray(np.full((8, 9), 120, np.uint8)).save(tmp_path / "a.jpg")
    assert read_channels(tmp_path / "a.jpg", 1).tolist() == np.full((8, 9, 1), 120).tolist()


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (noise(4, np.uint8), r"array of \(7, 11, 4\); data\.channels=5 were promised"),
        (noise(5, np.float32) * 300, r"values of float32 from .* uint8, uint16, or floats from 0 to 1"),
        (noise(5, np.int32), "values of int32 from"),
        (np.array([{"a": 1}], dtype=object), "cannot be read .*pickle"),
    ],
)
def test_what_is_refused(tmp_path: Path, pixels: Any, message: str) -> None:
    np.save(tmp_path / "a.npy", pixels)
    with pytest.raises(vertebra.InputError, match=message):
        read_channels(tmp_path / "a.npy", 5)


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.npy"])
def test_damaged_files(tmp_path: Path, name: str) -> None:
    with pytest.raises(vertebra.InputError, match="no such file"):
        read_channels(tmp_path / name, 3)
    (tmp_path / name).write_bytes(b"not an image")
    with pytest.raises(vertebra.InputError, match="cannot be read"):
        read_channels(tmp_path / name, 3)
