"""Files that were mutated at random: read, or refused with one line, in time, and nothing is left but in the cache."""

import copy
import json
import os
import signal
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.configuration import set_hypothesis_home_dir
from PIL import Image
from pycocotools import mask as coco_mask

from vertebra import InputError
from vertebra.tools.data.coco import read_coco, require_masks
from vertebra.tools.data.images import read_image

# No example of a few pixels takes a tenth of this, whatever else the machine does.
SECONDS = 20
HEIGHT, WIDTH = 10, 12


# --- where the files lie ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with images in `set/images`, and others beside; the cache, the home and TMPDIR are in it too."""
    root = tmp_path_factory.mktemp("fuzz")
    set_hypothesis_home_dir(tmp_path_factory.mktemp("hypothesis"))
    for name in ("cache", "home", "tmp", "work", "set/images/sub"):
        (root / name).mkdir(parents=True)
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    for name in ("set/images/a.png", "set/images/sub/b.png", "set/secret.png", "secret.png"):
        Image.fromarray(pixels).save(root / name)
    with pytest.MonkeyPatch.context() as patch:
        for variable, name in (("XDG_CACHE_HOME", "cache"), ("HOME", "home"), ("TMPDIR", "tmp")):
            patch.setenv(variable, str(root / name))
        patch.chdir(root / "work")
        yield root


def files(root: Path) -> dict[str, tuple[int, int]]:
    """Return size and time of all that is below a folder, but for the cache."""
    return {
        str(path): (path.lstat().st_size, path.lstat().st_mtime_ns)
        for path in root.rglob("*")
        if not path.is_relative_to(root / "cache")
    }


@contextmanager
def harmless(root: Path) -> Iterator[None]:
    """Let nothing but InputErrors of one line pass, allow a few seconds, and no file but in the cache."""

    def late(*_: object) -> None:
        raise TimeoutError(f"not done within {SECONDS} s")

    message = "done"
    before, handler = files(root), signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    except InputError as error:
        message = str(error)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
    assert len(message.splitlines()) == 1, message
    assert files(root) == before


def examples(count: int, *, always: bool) -> Callable[[Callable[[st.DataObject], None]], None]:
    """Run a check on so many examples, always the same ones or others each time."""

    def run(check: Callable[[st.DataObject], None]) -> None:
        settings = hypothesis.settings(
            max_examples=count, derandomize=always, deadline=None, database=None,
            suppress_health_check=[hypothesis.HealthCheck.too_slow, hypothesis.HealthCheck.data_too_large],
        )  # fmt: skip
        settings(hypothesis.given(st.data())(check))()

    return run


# All examples, or so few that they are fast.
SHARES = pytest.mark.parametrize(
    "share", [pytest.param(25, id="few"), pytest.param(1, id="all", marks=pytest.mark.slow)]
)

# --- mutations -------------------------------------------------------------------------------------------------------

# Stands for lists in lists, deeper than Python can write them.
DEEP = "deep"
NESTED = "[" * 3000 + "]" * 3000

NUMBERS = st.one_of(
    st.integers(-2, 40),
    st.floats(-2, 40),
    st.sampled_from(
        [2**31, 2**32 - 1, 2**53 + 1, 2**62, 2**63, -(2**63) - 1, 10**30, 10**400, 1e9, -1e9, 1e308, 5e-324, -0.0]
    ),
    st.sampled_from([float("nan"), float("inf"), -float("inf")]),
)
TEXTS = st.one_of(
    st.sampled_from(
        [
            "", ".", "..", "/", "a.png", "sub/b.png", "sub/../a.png", "../secret.png", "../../secret.png",
            "/etc/passwd", "sub", "a.png/x", "a\0b", "sub/a\0b", "x" * 5000, "sub/" + "x" * 5000, "x/" * 3000,
            "\ud800", "sub/\ud800", "a\nb", "1", "0x1", "nan", "<script>", "PPPP", "0" * 40, "oooooooooooooooo7", DEEP,
        ]
    ),
    st.text(max_size=8),
)  # fmt: skip
POLYGONS = st.lists(st.lists(NUMBERS, max_size=9), max_size=3)
RLES = st.fixed_dictionaries(
    {"counts": st.one_of(TEXTS, st.lists(NUMBERS, max_size=6))},
    optional={"size": st.one_of(st.just([HEIGHT, WIDTH]), st.lists(NUMBERS, max_size=3))},
)
VALUES = st.one_of(
    st.none(), st.booleans(), NUMBERS, TEXTS, POLYGONS, RLES, st.lists(NUMBERS, max_size=5),
    st.sampled_from([[], {}, [[]], [{}], [None], {"id": 1}]),
)  # fmt: skip


def document() -> dict[str, Any]:
    """A small valid document with each kind of segmentation, a crowd, sparse ids, and an image without objects."""
    solid = np.zeros((HEIGHT, WIDTH), np.uint8, order="F")
    solid[2:6, 3:9] = 1
    compressed = coco_mask.encode(solid)
    forms: list[Any] = [
        [[1, 1, 8, 1.5, 8, 7, 2, 8]],
        [[1, 1, 8, 1, 8, 7], [9, 8, 11, 8, 11, 9.5]],
        {"size": [HEIGHT, WIDTH], "counts": compressed["counts"].decode()},
        {"size": [HEIGHT, WIDTH], "counts": [20, 30, 10, 60]},
        [],
    ]
    return {
        "info": {"year": 2017},
        "images": [
            {"id": id, "file_name": name, "height": HEIGHT, "width": WIDTH}
            for id, name in ((3, "a.png"), (7, "sub/b.png"), (8, "a.png"))
        ],
        "categories": [{"id": 0, "name": "dog"}, {"id": 18, "name": "person", "supercategory": "x"}],
        "annotations": [
            {
                "id": i, "image_id": (3, 7)[i % 2], "category_id": (0, 18)[i % 2], "bbox": [1, 1.5, 7, 6], "area": 40.5,
                "iscrowd": int(i == 3), "segmentation": form,
            }
            for i, form in enumerate(forms)
        ],
    }  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the paths to all values inside a document."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    found = [place for key, part in inside for place in places(part, (*path, key))]
    return [path, *found] if path else found


def retyped(value: Any) -> list[Any]:
    """Return values that look like this one, of other types."""
    return [str(value), [value], {"value": value}, json.dumps(value), None, True]


def change(data: st.DataObject, content: dict[str, Any]) -> None:
    """Change one value of a document: replace, delete, double, move or retype it."""
    *path, last = data.draw(st.sampled_from(places(content)))
    parent: Any = content
    for key in path:
        parent = parent[key]
    match data.draw(st.sampled_from(["replace", "delete", "double", "copy", "retype"])):
        case "replace":
            parent[last] = data.draw(VALUES)
        case "delete":
            del parent[last]
        case "double":
            again = copy.deepcopy(parent[last])
            if isinstance(parent, list):
                parent.append(again)
            else:
                parent[data.draw(TEXTS)] = again
        case "copy":
            *others, name = data.draw(st.sampled_from(places(content)))
            source: Any = content
            for key in others:
                source = source[key]
            parent[last] = copy.deepcopy(source[name])
        case "retype":
            parent[last] = data.draw(st.sampled_from(retyped(parent[last])))


TOKENS = [
    b"{",
    b"}",
    b"[",
    b"]",
    b'"',
    b",",
    b":",
    b"\\u",
    b"\xff",
    b"\0",
    b"NaN",
    b"1e999",
    b"-",
    b"9" * 5000,
    b"[" * 9999,
]


def damage(data: st.DataObject, content: bytes, tokens: list[bytes]) -> bytes:
    """Damage the bytes of a file at one place: flip, cut, drop, double, or put something in."""
    start = data.draw(st.integers(0, max(0, len(content) - 1)))
    stop = start + data.draw(st.integers(1, 40))
    match data.draw(st.sampled_from(["flip", "cut", "drop", "double", "insert"])):
        case "flip" if content:
            return content[:start] + bytes([content[start] ^ data.draw(st.integers(1, 255))]) + content[start + 1 :]
        case "cut":
            return content[:start]
        case "drop":
            return content[:start] + content[stop:]
        case "double":
            return content[:stop] + content[start:]
    return content[:start] + data.draw(st.sampled_from(tokens)) + content[start:]


# --- annotations -----------------------------------------------------------------------------------------------------


def read_all(place: Path) -> None:
    """Read a set as training does, with boxes and then with masks, and check what comes."""
    data = read_coco(place / "set" / "instances.json", place / "set" / "images")
    for found, keys in ((data, ("boxes", "labels")), (require_masks(data), ("boxes", "labels", "masks"))):
        for image in found.images:
            assert image.path.resolve().is_relative_to(place / "set" / "images")
            targets = image.targets(keys)
            shape = image.read().shape[:2]
            boxes, labels = targets["boxes"], targets["labels"]
            assert boxes.dtype == np.float32
            assert np.isfinite(boxes).all()
            assert boxes.shape == (len(labels), 4)
            assert ((labels >= 1) & (labels <= len(found.categories))).all()
            if "masks" in keys:
                masks = targets["masks"]
                dense = masks if isinstance(masks, np.ndarray) else masks.dense()
                assert tuple(dense.shape) == (len(labels), *shape)
    assert data.images


@SHARES
def test_documents_with_values_changed(place: Path, share: int) -> None:
    @examples(1500 // share, always=share > 1)
    def _(data: st.DataObject) -> None:
        content = document()
        for _ in range(data.draw(st.integers(1, 4))):
            change(data, content)
        (place / "set" / "instances.json").write_text(json.dumps(content).replace(json.dumps(DEEP), NESTED))
        with harmless(place):
            read_all(place)


@SHARES
def test_documents_with_bytes_changed(place: Path, share: int) -> None:
    @examples(500 // share, always=share > 1)
    def _(data: st.DataObject) -> None:
        content = json.dumps(document()).encode()
        for _ in range(data.draw(st.integers(1, 3))):
            content = damage(data, content, TOKENS)
        (place / "set" / "instances.json").write_bytes(content)
        with harmless(place):
            read_all(place)


def test_the_document_itself_is_read(place: Path) -> None:
    """Else what was made of it would be refused for what it was before."""
    (place / "set" / "instances.json").write_text(json.dumps(document()))
    read_all(place)
    data = read_coco(place / "set" / "instances.json", place / "set" / "images")
    assert [image.labels.tolist() for image in data.images] == [[1, 1, 1], [2], []]


@SHARES
def test_names_outside_the_folder_are_refused(place: Path, share: int) -> None:
    """Where a name points is what the operating system makes of it."""
    images = place / "set" / "images"
    parts = st.sampled_from(["..", ".", "", "sub", "a.png", "b.png", "secret.png", "images", "set"])
    starts = st.sampled_from(["", "/", f"{images}/", f"{place}/", f"{images}/../"])

    @examples(500 // share, always=share > 1)
    def _(data: st.DataObject) -> None:
        name = data.draw(starts) + "/".join(data.draw(st.lists(parts, max_size=6)))
        content = document()
        content["images"][0]["file_name"] = name
        (place / "set" / "instances.json").write_text(json.dumps(content))
        target = os.path.realpath(os.path.join(images, name))
        inside = os.path.commonpath([target, os.path.realpath(images)]) == os.path.realpath(images)
        with harmless(place):
            read_all(place)
            assert inside


# --- images ----------------------------------------------------------------------------------------------------------


def saved(mode: str, format: str, **options: Any) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (23, 37, 4), dtype=np.uint8)
    file = BytesIO()
    Image.fromarray(pixels, "RGBA").convert(mode).save(file, format, **options)
    return file.getvalue()


def images() -> list[bytes]:
    exif = Image.Exif()
    exif[0x0112] = 6
    return [
        saved("RGB", "JPEG"), saved("RGB", "JPEG", progressive=True, exif=exif), saved("L", "JPEG"),
        saved("CMYK", "JPEG"), saved("RGB", "PNG"), saved("RGBA", "PNG"), saved("P", "PNG"), saved("L", "PNG"),
        saved("RGB", "BMP"), saved("RGB", "TIFF"), saved("RGB", "WEBP"),
    ]  # fmt: skip


MARKS = [
    b"\xff\xd8",
    b"\xff\xd9",
    b"\xff\xc0",
    b"\xff\xda",
    b"\xff",
    b"\0" * 64,
    b"IEND\xaeB`\x82",
    b"IHDR",
    b"\x89PNG\r\n\x1a\n",
]


def sized(data: st.DataObject, content: bytes) -> bytes:
    """Write another size into the header of a PNG, with its checksum, or of a JPEG."""
    height, width = (data.draw(st.one_of(st.integers(0, 64), st.sampled_from([65535, 2**31 - 1]))) for _ in range(2))
    if content.startswith(b"\x89PNG"):
        header = b"IHDR" + width.to_bytes(4, "big") + height.to_bytes(4, "big") + content[24:29]
        return content[:12] + header + zlib.crc32(header).to_bytes(4, "big") + content[33:]
    frame = max(content.find(b"\xff\xc0"), content.find(b"\xff\xc2"))
    if not content.startswith(b"\xff\xd8") or frame < 0:
        return content
    size = min(height, 65535).to_bytes(2, "big") + min(width, 65535).to_bytes(2, "big")
    return content[: frame + 5] + size + content[frame + 9 :]


@SHARES
def test_images_with_bytes_changed(place: Path, share: int) -> None:
    kinds = images()

    @examples(500 // share, always=share > 1)
    def _(data: st.DataObject) -> None:
        content = data.draw(st.sampled_from(kinds))
        for _ in range(data.draw(st.integers(1, 3))):
            match data.draw(st.sampled_from(["bytes", "size", "join"])):
                case "bytes":
                    content = damage(data, content, MARKS)
                case "size":
                    content = sized(data, content)
                case "join":
                    other = data.draw(st.sampled_from(kinds))
                    content = content[: data.draw(st.integers(0, len(content)))] + other
        path = place / "set" / "mutated"
        path.write_bytes(content)
        for orient in (False, True):
            with harmless(place):
                found = read_image(path, orient=orient)
                assert (found.dtype, found.ndim, found.shape[2]) == (np.uint8, 3, 3)
        path.unlink()


def test_the_images_themselves_are_read(place: Path) -> None:
    for content in images():
        (place / "set" / "whole").write_bytes(content)
        assert read_image(place / "set" / "whole").shape == (23, 37, 3)


@pytest.mark.parametrize("far", [1e8, 2**31, -1e9, 1e308])
def test_a_polygon_far_outside_is_refused(place: Path, far: float) -> None:
    """Pycocotools walks along all of its edges, in int, and takes the process with it when there is no memory left."""
    content = document()
    content["annotations"][0]["segmentation"] = [[1, 1, 8, 1, far, 7]]
    (place / "set" / "instances.json").write_text(json.dumps(content))
    data = read_coco(place / "set" / "instances.json", place / "set" / "images")
    with pytest.raises(InputError, match="annotation 0 has a point further from its image"):
        require_masks(data)


def test_a_header_of_more_pixels_than_can_be_read_is_refused(place: Path) -> None:
    content = images()[0]
    frame = content.find(b"\xff\xc0")
    (place / "set" / "huge.jpg").write_bytes(content[: frame + 5] + b"\xff" * 4 + content[frame + 9 :])
    with pytest.raises(InputError, match="is not an image that OpenCV can read"):
        read_image(place / "set" / "huge.jpg")
