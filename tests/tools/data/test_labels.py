"""Label PNGs: index and colour, 8 and 16 bits, and what they hold that means nothing."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import vertebra
from vertebra.tools.data.labels import colour_coding, read_labels, value_coding


def save(path: Path, pixels: object, *, palette: list[int] | None = None) -> Path:
    image = Image.fromarray(np.array(pixels))
    if palette is not None:
        image.putpalette(palette)
        assert image.mode == "P"
    image.save(path)
    return path


def test_values_are_classes_unless_said_otherwise(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", np.array([[0, 1, 2], [2, 255, 0]], np.uint8))
    found = read_labels(path, value_coding(3))
    assert found.dtype == np.uint8
    assert found.tolist() == [[0, 1, 2], [2, 255, 0]]
    assert read_labels(path, value_coding(3, (2, 0, 1))).tolist() == [[1, 2, 0], [0, 255, 1]]
    assert read_labels(path, value_coding(1, (1,), (0, 2, 255))).tolist() == [[255, 0, 255], [255, 255, 255]]


def test_palettes_of_index_pngs_are_colours_to_look_at(tmp_path: Path) -> None:
    """VOC's PNGs: the index counts, whatever the colour."""
    path = save(tmp_path / "a.png", np.array([[0, 1], [1, 255]], np.uint8), palette=[*range(0, 256, 2)] * 6)
    assert read_labels(path, value_coding(2)).tolist() == [[0, 1], [1, 255]]


def test_sixteen_bits(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", np.array([[7, 24000], [65535, 7]], np.uint16))
    assert read_labels(path, value_coding(2, (24000, 7), (65535,))).tolist() == [[1, 0], [255, 1]]
    with pytest.raises(
        vertebra.InputError, match=r"a\.png have value 65535 in 1 pixels; the classes have 24000, 7, to"
    ):
        read_labels(path, value_coding(2, (24000, 7), (-1,)))


def test_one_bit(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", np.array([[True, False]]))
    assert read_labels(path, value_coding(2)).tolist() == [[1, 0]]


def test_every_value_of_a_byte(tmp_path: Path) -> None:
    values = np.random.default_rng(0).permutation(256)
    path = save(tmp_path / "a.png", np.arange(256, dtype=np.uint8).reshape(16, 16))
    found = read_labels(path, value_coding(255, values[:255].tolist(), values[255:].tolist()))
    assert all(found.flat[value] == (index if index < 255 else 255) for index, value in enumerate(values))


COLOURS = [tuple(map(int, colour)) for colour in np.random.default_rng(1).integers(0, 256, (60, 3))]


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_colours_are_classes_of_the_palette(tmp_path: Path, mode: str) -> None:
    classes = np.random.default_rng(2).integers(0, 60, (30, 40))
    path = tmp_path / "a.png"
    Image.fromarray(np.array(COLOURS, np.uint8)[classes]).convert(mode).save(path)
    assert np.array_equal(read_labels(path, colour_coding(60, COLOURS)), classes)
    found = read_labels(path, colour_coding(50, COLOURS[:50], COLOURS[50:]))
    assert np.array_equal(found, np.where(classes < 50, classes, 255))


def test_an_index_png_read_by_its_colours(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", np.array([[0, 1], [1, 2]], np.uint8), palette=[9, 9, 9, 128, 0, 0, 0, 0, 7])
    assert read_labels(path, colour_coding(3, [(0, 0, 7), (128, 0, 0), (9, 9, 9)])).tolist() == [[2, 1], [1, 0]]


def test_an_unknown_colour_is_named(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8))
    message = r"a\.png have colour \(4, 5, 6\) in 1 pixels; the classes have \(1, 2, 3\), to be ignored: none"
    with pytest.raises(vertebra.InputError, match=message):
        read_labels(path, colour_coding(1, [(1, 2, 3)]))


def test_an_unknown_value_is_named(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", np.array([[0, 11, 11, 255]], np.uint8))
    message = r"a\.png have value 11 in 2 pixels; the classes have 0 to 10, to be ignored: 255$"
    with pytest.raises(vertebra.InputError, match=message):
        read_labels(path, value_coding(11))


def test_a_negative_value_means_no_pixel(tmp_path: Path) -> None:
    """As Cityscapes' licence plates; it must not be taken for the highest value there is."""
    path = save(tmp_path / "a.png", np.array([[0, 65535]], np.uint16))
    with pytest.raises(vertebra.InputError, match="have value 65535 in 1 pixels"):
        read_labels(path, value_coding(1, (0,), (-1,)))


def test_files_that_are_no_label_pngs(tmp_path: Path) -> None:
    colour = save(tmp_path / "colour.png", np.zeros((2, 2, 3), np.uint8))
    with pytest.raises(vertebra.InputError, match=r"colour\.png are RGB, with colours; give the data set's palette"):
        read_labels(colour, value_coding(2))
    cut = tmp_path / "cut.png"
    cut.write_bytes(save(tmp_path / "a.png", np.eye(200, dtype=np.uint8)).read_bytes()[:70])
    for path in (cut, tmp_path / "absent.png"):
        with pytest.raises(vertebra.InputError, match=rf"labels .*{path.name} cannot be read"):
            read_labels(path, value_coding(2))


def test_codings_that_make_no_sense() -> None:
    with pytest.raises(vertebra.InputError, match="3 values for 2 classes"):
        value_coding(2, (0, 1, 2))
    with pytest.raises(vertebra.InputError, match=r"one is both a class and to be ignored: values \[0, 255\], ignore"):
        value_coding(2, (0, 255))
    assert value_coding(2, (0, 255), ()).original == (0, 255)
    with pytest.raises(vertebra.InputError, match="two classes share one of the colours"):
        colour_coding(2, [(1, 1, 1), (1, 1, 1)])
    with pytest.raises(vertebra.InputError, match=r"colour \[1, 2, 256\] in the palette"):
        colour_coding(1, [(1, 2, 256)])
    for count in (0, 256):
        with pytest.raises(vertebra.InputError, match=rf"{count} classes are named .* 1 to 255"):
            value_coding(count)
