"""Image and label folders: what makes a pair, and what is missing from one."""

from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import vertebra
from vertebra.tools.data.formats import FORMATS, read_names
from vertebra.tools.data.semantic import read_label_folders
from vertebra.tools.data.sets import Category
from vertebra.tools.data.stream import TrainingStream, evaluation_batches, training_batches
from vertebra.tools.data.transforms import Transform, Transforms

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a file of one value, in folders that are made for it."""

    def call(name: str, value: object = 0, size: tuple[int, int] = (4, 6), **options: object) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        colour = np.array(value, np.uint8)
        Image.fromarray(np.broadcast_to(colour, (*size, *colour.shape)).copy()).save(path, **options)
        return path

    return call


@pytest.fixture
def folders(tmp_path: Path, write: Write) -> tuple[Path, Path]:
    """Three pairs, one of them in a folder of its own."""
    for i, name in enumerate(("b", "a", "deep/c")):
        write(f"images/{name}.jpg", (9, 9, 9))
        write(f"labels/{name}.png", i)
    return tmp_path / "images", tmp_path / "labels"


def names_of(data: vertebra.tools.data.sets.ImageSet, root: Path) -> list[str]:
    return [image.path.relative_to(root).as_posix() for image in data.images]


def classes_of(data: vertebra.tools.data.sets.ImageSet) -> list[int]:
    """The one class that each image's labels are of."""
    return [int(np.unique(image.targets(("semantic",))["semantic"]).item()) for image in data.images]


def test_pairs_by_path_and_stem(folders: tuple[Path, Path]) -> None:
    data = read_label_folders(*folders, names=("x", "y", "z"))
    assert names_of(data, folders[0]) == ["a.jpg", "b.jpg", "deep/c.jpg"]
    assert classes_of(data) == [1, 0, 2]
    assert [image.id for image in data.images] == [1, 2, 3]
    assert data.source == folders[1]
    assert data.categories == (Category(0, "x"), Category(1, "y"), Category(2, "z"))
    assert data.images[0].read().shape == (4, 6, 3)
    assert data.images[0].targets(()) == {}


def test_values_are_the_categories_ids(folders: tuple[Path, Path]) -> None:
    data = read_label_folders(*folders, names=("x", "y"), values=(2, 0), ignore=(1,))
    assert data.categories == (Category(2, "x"), Category(0, "y"))
    assert classes_of(data) == [255, 1, 0]


def test_colours(write: Write, tmp_path: Path) -> None:
    for name, colour in (("a", (1, 2, 3)), ("b", (0, 0, 0)), ("c", (9, 8, 7))):
        write(f"images/{name}.png", (5, 5, 5))
        write(f"labels/{name}.png", colour)
    both = tmp_path / "images", tmp_path / "labels"
    palette = ((9, 8, 7), (1, 2, 3))
    data = read_label_folders(*both, names=("x", "y"), palette=palette, ignore_colours=((0, 0, 0),))
    assert classes_of(data) == [1, 255, 0]
    assert data.categories == (Category(0, "x"), Category(1, "y"))
    with pytest.raises(vertebra.InputError, match=r"b\.png have colour \(0, 0, 0\)"):
        classes_of(read_label_folders(*both, names=("x", "y"), palette=palette))
    with pytest.raises(vertebra.InputError, match="either values or a palette"):
        read_label_folders(*both, names=("x", "y"), palette=palette, values=(0, 1))


@pytest.mark.parametrize("written", ["with the extension", "without"])
def test_suffixes_as_cityscapes_has_them(write: Write, tmp_path: Path, written: str) -> None:
    """Other files lie beside the labels; the class of car is 13, of what is not counted 255 (the data set's page)."""
    for city, value in (("aachen", 26), ("bochum", 4)):
        write(f"images/{city}/{city}_1_leftImg8bit.png", (5, 5, 5))
        write(f"labels/{city}/{city}_1_gtFine_labelIds.png", value)
        write(f"labels/{city}/{city}_1_gtFine_color.png", (5, 5, 5))
        (tmp_path / f"labels/{city}/{city}_1_gtFine_polygons.json").touch()
    row = FORMATS["cityscapes"]
    suffixes = ("_leftImg8bit.png", "_gtFine_labelIds.png")
    if written == "without":
        suffixes = tuple(suffix.removesuffix(".png") for suffix in suffixes)
    data = read_label_folders(
        *(tmp_path / "images", tmp_path / "labels"),
        names=row.names,
        values=row.values,
        ignore=row.ignore,
        image_suffix=suffixes[0],
        label_suffix=suffixes[1],
    )
    assert classes_of(data) == [13, 255]
    assert data.categories[13] == Category(26, "car")


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("coco_stuffthings", {0: 0, 89: 79, 91: 80, 181: 170, 255: 255}),
        ("coco_stuff", {92: 0, 182: 90, 183: 255, 0: 255}),
    ],
)
def test_cocos_pngs(write: Write, tmp_path: Path, kind: str, expected: dict[int, int]) -> None:
    """By COCO's ids: 90 is its 80th thing, the toothbrush, and 92 to 182 are stuff."""
    for value in expected:
        write(f"images/{value:03}.jpg", (5, 5, 5))
        write(f"labels/{value:03}.png", value)
    row = FORMATS[kind]
    names = [str(i) for i in range(len(row.values))]
    data = read_label_folders(
        tmp_path / "images", tmp_path / "labels", names=names, values=row.values, ignore=row.ignore
    )
    assert classes_of(data) == [expected[value] for value in sorted(expected)]


def test_a_list_chooses_pairs_and_their_order(folders: tuple[Path, Path], write: Write, tmp_path: Path) -> None:
    """As in VOC, where most images have no labels."""
    write("images/unlabelled.jpg", (9, 9, 9))
    listed = tmp_path / "train.txt"
    listed.write_text("deep/c\na\n\n")
    data = read_label_folders(*folders, names=("x", "y", "z"), listed=listed)
    assert names_of(data, folders[0]) == ["deep/c.jpg", "a.jpg"]
    for content, message in (
        ("a\nunlabelled\ngone\n", r"1 of 3 pairs are without an image in .*images \(first: 'gone'\)$"),
        ("a\nunlabelled\n", r"1 of 2 pairs are without labels in .*labels \(first: 'unlabelled'\)$"),
        ("\n", "lists no images"),
        ("a\nb\na\n", r"lists 1 names more than once \(first: 'a'\)"),
    ):
        listed.write_text(content)
        with pytest.raises(vertebra.InputError, match=message):
            read_label_folders(*folders, names=("x", "y", "z"), listed=listed)
    with pytest.raises(vertebra.InputError, match=r"no list of images at .*absent"):
        read_label_folders(*folders, names=("x", "y", "z"), listed=tmp_path / "absent")


def test_missing_pairs(folders: tuple[Path, Path], write: Write) -> None:
    write("images/deep/a.jpg", (9, 9, 9))  # a stem that is there, in another folder
    with pytest.raises(
        vertebra.InputError, match=r"1 of 4 pairs are without labels in .*labels \(first: 'deep/a'\); .* `listed`"
    ):
        read_label_folders(*folders, names=("x", "y", "z"))
    write("labels/deep/a.png")
    write("labels/zz.png")
    write("labels/z.png")
    with pytest.raises(vertebra.InputError, match=r"2 of 6 pairs are without an image in .*images \(first: 'z'\)"):
        read_label_folders(*folders, names=("x", "y", "z"))


def test_folders_that_hold_nothing_of_use(folders: tuple[Path, Path], write: Write, tmp_path: Path) -> None:
    with pytest.raises(vertebra.InputError, match=r"no folder of labels at .*absent"):
        read_label_folders(folders[0], tmp_path / "absent", names=("x",))
    with pytest.raises(vertebra.InputError, match=r"no labels \(\.png\) in .*images"):
        read_label_folders(folders[0], folders[0], names=("x",))
    with pytest.raises(vertebra.InputError, match=r"no images ending in '_left\.png' in"):
        read_label_folders(*folders, names=("x",), image_suffix="_left.png")
    write("images/a.png", (9, 9, 9))
    with pytest.raises(vertebra.InputError, match=r"images has both a\.jpg and a\.png"):
        read_label_folders(*folders, names=("x",))


def test_labels_of_another_size_than_the_image(folders: tuple[Path, Path], write: Write) -> None:
    write("labels/a.png", 1, size=(6, 4))
    data = read_label_folders(*folders, names=("x", "y", "z"))
    message = r"image .*a\.jpg is 6x4, its labels .*a\.png are 4x6; a pair must have one size"
    with pytest.raises(vertebra.InputError, match=message):
        list(evaluation_batches(data.images, 2, 0, ("semantic",)))


def test_values_out_of_range_are_named_when_the_sample_is_read(folders: tuple[Path, Path]) -> None:
    data = read_label_folders(*folders, names=("x", "y"))
    with pytest.raises(
        vertebra.InputError, match=r"deep/c\.png have value 2 in 24 pixels; the classes have 0, 1, to be"
    ):
        list(evaluation_batches(data.images, 1, 0, ("semantic",)))


def test_stored_pixels_whatever_exif_says(write: Write, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn a quarter clockwise to show
    write("images/a.jpg", (9, 9, 9), exif=exif)
    write("labels/a.png")
    (image,) = read_label_folders(tmp_path / "images", tmp_path / "labels", names=("x",)).images
    assert image.read().shape[:2] == image.targets(("semantic",))["semantic"].shape == (4, 6)


def test_other_targets_are_refused(folders: tuple[Path, Path]) -> None:
    data = read_label_folders(*folders, names=("x", "y", "z"))
    with pytest.raises(vertebra.InputError, match="learns from 'boxes', which this data set does not have: it has sem"):
        data.images[0].targets(("boxes",))


def test_camvid(real_data: Path) -> None:
    """Against Pillow's reading of the PNGs, which hold the classes themselves."""
    root = real_data / "camvid"
    names = read_names(root / "classes.txt")
    for split, count in (("train", 367), ("val", 101)):
        data = read_label_folders(root / "images" / split, root / "labels" / split, names=names)
        assert len(data.images) == count
    for image in data.images[::10]:
        stored = np.asarray(Image.open(root / "labels" / "val" / f"{image.path.stem}.png"))
        assert np.array_equal(image.targets(("semantic",))["semantic"], stored)


@pytest.mark.parametrize("preset", ["seg", "flips"])
def test_samples_do_not_depend_on_the_workers(real_data: Path, preset: str) -> None:
    root = real_data / "camvid"
    data = read_label_folders(root / "images" / "val", root / "labels" / "val", names=read_names(root / "classes.txt"))
    transform = Transform(Transforms(preset, 180, 240, crop=(128, 160)))
    stream = TrainingStream(data.images, transform, seed=3, target_keys=("semantic",))

    def digest(workers: int) -> str:
        found = sha256()
        for batch in training_batches(stream, 4, 5, 8, workers):
            for pixels, target in batch:
                assert pixels.shape[1:] == target["semantic"].shape
                found.update(pixels.numpy().tobytes() + target["semantic"].numpy().tobytes())
        return found.hexdigest()

    assert digest(0) == digest(2)
