"""What all formats share: boxes cut to their image, notes of what is lost, and how images come along."""

from collections.abc import Callable
from pathlib import Path

import pytest

import vertebra
from vertebra.tools.data.exchange.common import (
    IMAGES,
    Collection,
    Notes,
    Object,
    Picture,
    boxes_of,
    check_names,
    check_stems,
    stem,
)


def picture(*boxes: tuple[float, float, float, float]) -> Picture:
    """A picture of 200 x 100 pixels."""
    return Picture(Path("a.jpg"), "a.jpg", 100, 200, tuple(Object(0, box) for box in boxes))


@pytest.mark.parametrize(
    ("box", "cut"),
    [
        ((10.1, 20.2, 30.3, 40.4), (10.1, 20.2, 30.3, 40.4)),
        ((0, 0, 200, 100), (0, 0, 200, 100)),
        ((-10, 20, 30, 40), (0, 20, 20, 40)),
        ((190, 90, 30, 40), (190, 90, 10, 10)),
    ],
)
def test_boxes_are_cut_to_the_image(box: tuple[float, ...], cut: tuple[float, ...]) -> None:
    notes = Notes()
    ((_, found),) = boxes_of(picture(box), notes)
    assert found == cut
    assert bool(notes.lines()) == (found != box)


def test_what_reaches_out_by_rounding_is_cut_and_not_counted() -> None:
    notes = Notes()
    ((_, found),) = boxes_of(picture((150, 0, 50.01, 100.01)), notes)
    assert (found, notes.lines()) == ((150, 0, 50, 100), [])


def test_boxes_without_area_or_outside_and_crowds_are_left_out() -> None:
    notes = Notes()
    given = picture((5, 5, 0, 9), (5, 5, 9, -1), (200, 5, 9, 9), (1, 1, 2, 2))
    crowd = Object(0, (1, 1, 2, 2), crowd=True)
    kept = list(boxes_of(Picture(given.path, "a.jpg", 100, 200, (*given.objects, crowd)), notes))
    assert [box for _, box in kept] == [(1, 1, 2, 2)]
    assert notes.lines() == [
        "2 boxes without area were left out (first: a.jpg)",
        "1 boxes outside their image were left out (first: a.jpg)",
        "1 crowds were left out: the format has single objects only (first: a.jpg)",
    ]


def test_names() -> None:
    assert stem("deep/a.b.jpg") == "deep/a.b"
    check_stems(["a.jpg", "b.jpg", "deep/a.jpg"], Path("there"), ".txt")
    with pytest.raises(vertebra.InputError, match=r"there has a\.jpg and a\.png, which would share a\.txt; rename one"):
        check_stems(["a.jpg", "a.png"], Path("there"), ".txt")
    with pytest.raises(vertebra.InputError, match=r"there has 1 names of images twice \(first: a\.jpg\)"):
        check_names(["a.jpg", "b.jpg", "a.jpg"], Path("there"))


def test_images_come_along(collect: Callable[..., Collection], tmp_path: Path) -> None:
    (part,) = collect(train={"deep/a.png": []}).parts
    (given,) = part.pictures
    content = given.path.read_bytes()
    for how in IMAGES:
        IMAGES[how](given.path, tmp_path / how / given.name)
    linked, copied = tmp_path / "link" / "deep" / "a.png", tmp_path / "copy" / "deep" / "a.png"
    assert linked.is_symlink()
    assert linked.read_bytes() == content == copied.read_bytes()
    assert not copied.is_symlink()
    assert not (tmp_path / "none").exists()
    with pytest.raises(vertebra.InputError, match=r"cannot link .*a\.png .*; take --images copy"):
        IMAGES["link"](given.path, linked)
