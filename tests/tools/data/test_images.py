"""Decoding: the stored pixels, and nothing that is cut short."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

import vertebra
from vertebra.tools.data.images import find_images, own_names, read_image, read_reduced, stored_size

PIXELS = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)


def save(path: Path, **options: object) -> Path:
    Image.fromarray(PIXELS).save(path, **options)
    return path


def test_png_gives_the_pixels_in_rgb(tmp_path: Path) -> None:
    assert np.array_equal(read_image(save(tmp_path / "a.png")), PIXELS)


def test_grey_becomes_rgb(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "grey.png"), PIXELS[..., 0])
    assert np.array_equal(read_image(tmp_path / "grey.png"), PIXELS[..., [0, 0, 0]])


def test_exif_orientation_only_where_it_is_asked_for(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn a quarter clockwise to show
    path = save(tmp_path / "turned.jpg", exif=exif)
    assert read_image(path).shape == (40, 30, 3)
    assert read_image(path, orient=True).shape == (30, 40, 3)


@pytest.mark.parametrize("factor", [1, 2, 4, 8])
@pytest.mark.parametrize("size", [(64, 48), (67, 49), (8, 8), (5, 1)])
def test_a_reduced_jpeg(tmp_path: Path, factor: int, size: tuple[int, int]) -> None:
    """Against Pillow, which asks libjpeg for the same, and against averages of the whole."""
    path = tmp_path / "a.jpg"
    slopes = np.add.outer(np.arange(size[0]) * 2, np.arange(size[1])).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # a turn, which is ignored
    Image.fromarray(np.stack([slopes, slopes[::-1], slopes * 0 + 99], axis=-1)).save(path, quality=95, exif=exif)
    pixels, reduced = read_reduced(path, factor)
    assert reduced == factor
    assert pixels.shape == (-(-size[0] // factor), -(-size[1] // factor), 3)
    with Image.open(path) as image:
        image.draft("RGB", (max(1, size[1] // factor), max(1, size[0] // factor)))
        if image.size == pixels.shape[1::-1]:  # Pillow's own choice may be another
            assert np.abs(np.asarray(image, int) - pixels).max() <= 2
    whole = read_image(path).astype(int)
    inner = whole[: size[0] // factor * factor, : size[1] // factor * factor]
    rows, columns = inner.shape[0] // factor, inner.shape[1] // factor
    means = inner.reshape(rows, factor, columns, factor, 3).mean(axis=(1, 3))
    assert np.abs(means - pixels[:rows, :columns]).max(initial=0) <= 6
    assert stored_size(path) == size


def test_only_jpeg_is_reduced(tmp_path: Path) -> None:
    pixels, reduced = read_reduced(save(tmp_path / "a.png"), 4)
    assert np.array_equal(pixels, PIXELS)
    assert reduced == 1
    assert stored_size(tmp_path / "a.png") == (40, 30)


def test_reduced_images_are_whole_too(tmp_path: Path) -> None:
    path = save(tmp_path / "cut.jpg")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(vertebra.InputError, match=r"cut\.jpg is cut short"):
        read_reduced(path, 2)
    (tmp_path / "text.jpg").write_text("hello")
    with pytest.raises(vertebra.InputError, match=r"text\.jpg cannot be read"):
        stored_size(tmp_path / "text.jpg")


@pytest.mark.parametrize("suffix", ["jpg", "png"])
@pytest.mark.parametrize("share", [0.2, 0.6, 0.95])
def test_a_cut_file_is_refused(tmp_path: Path, suffix: str, share: float) -> None:
    path = save(tmp_path / f"cut.{suffix}")
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(vertebra.InputError, match=rf"cut\.{suffix} is (cut short|not an image)"):
        read_image(path)


def test_bytes_behind_the_end_do_no_harm(tmp_path: Path) -> None:
    """Cameras append things to their JPEGs."""
    path = save(tmp_path / "tail.jpg")
    expected = read_image(path)
    path.write_bytes(path.read_bytes() + b"\0" * 100)
    assert np.array_equal(read_image(path), expected)


def test_what_is_no_image(tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("hello")
    (tmp_path / "empty.jpg").touch()
    for name in ("text.jpg", "empty.jpg"):
        with pytest.raises(vertebra.InputError, match="is not an image"):
            read_image(tmp_path / name)
    with pytest.raises(vertebra.InputError, match=r"absent\.jpg cannot be read: No such file"):
        read_image(tmp_path / "absent.jpg")


def test_images_are_found_in_folders_and_by_name(tmp_path: Path) -> None:
    for name in ("b.jpg", "a.PNG", "notes.txt"):
        (tmp_path / name).touch()
    assert find_images([tmp_path, tmp_path / "b.jpg"]) == [tmp_path / n for n in ("a.PNG", "b.jpg", "b.jpg")]
    with pytest.raises(vertebra.InputError, match="no image or folder at"):
        find_images([tmp_path / "absent"])
    (tmp_path / "none").mkdir()
    with pytest.raises(vertebra.InputError, match="no images in"):
        find_images([tmp_path / "none"])


def test_images_are_found_by_patterns(tmp_path: Path) -> None:
    names = ("a.jpg", "b.PNG", "notes.txt", "sub/c.jpg", "sub/deep/d.png", ".hidden.jpg", "photo[1].jpg", "._a.jpg")
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()

    def found(pattern: str) -> list[str]:
        return [path.relative_to(tmp_path).as_posix() for path in find_images([tmp_path / pattern])]

    assert found("*.jpg") == ["a.jpg", "photo[1].jpg"]
    assert found("*") == ["a.jpg", "b.PNG", "photo[1].jpg"]
    assert found("**") == ["a.jpg", "b.PNG", "photo[1].jpg", "sub/c.jpg", "sub/deep/d.png"]
    assert found("**/*.png") == ["sub/deep/d.png"]
    assert found("[ab].*") == ["a.jpg", "b.PNG"]
    assert found("photo[1].jpg") == ["photo[1].jpg"]  # a file of that name goes before the pattern
    assert found("") == ["a.jpg", "b.PNG", "photo[1].jpg"]
    for pattern in ("*.gif", "nowhere/*", "no*.txt"):
        with pytest.raises(vertebra.InputError, match=r"no image matches .*; files ending in"):
            found(pattern)
    (tmp_path / "outer" / "inner").mkdir(parents=True)
    with pytest.raises(vertebra.InputError, match=r"no images in .*outer; .*outer/\*\*' also looks in the folders"):
        found("outer")


def test_names_of_their_own() -> None:
    paths = [Path(name) for name in ("a/1.jpg", "b/1.png", "c/1-2.jpg", "1.jpg", "x.tar.png", "1.bmp")]
    assert own_names(paths) == ["1", "1-2", "1-2-2", "1-3", "x.tar", "1-4"]
    many = own_names(Path(f"{i}/same.jpg") for i in range(40_000))
    assert len(set(many)) == 40_000
