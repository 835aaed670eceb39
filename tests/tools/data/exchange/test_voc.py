"""Pascal VOC's files: pixels counted from 1, parts and classes, and what is wrong with them; torchvision reads ours."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from torchvision.datasets import VOCDetection

import vertebra
from vertebra.tools.data.exchange.common import IMAGES, Collection, Notes, Object
from vertebra.tools.data.exchange.plain_xml import read_xml
from vertebra.tools.data.exchange.voc_reader import read_voc
from vertebra.tools.data.exchange.voc_writer import write_voc

Draw = Callable[..., Path]

OBJECT = """
  <object>
    <name>{name}</name><pose>Left</pose><truncated>1</truncated><difficult>{difficult}</difficult>
    <bndbox><xmin>{box[0]}</xmin><ymin>{box[1]}</ymin><xmax>{box[2]}</xmax><ymax>{box[3]}</ymax></bndbox>
  </object>"""


def xml(
    *objects: tuple[str, tuple[object, ...]], filename: str = "a.jpg", size: str = "200x100", difficult: int = 0
) -> str:
    width, height = size.split("x")
    body = "".join(OBJECT.format(name=name, box=box, difficult=difficult) for name, box in objects)
    return (
        f"<annotation>\n  <filename>{filename}</filename>\n  <size><width>{width}</width><height>{height}</height>"
        f"<depth>3</depth></size>{body}\n</annotation>\n"
    )


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.fixture
def folder(draw: Draw, tmp_path: Path) -> Path:
    """Two images of 200 x 100, without lists."""
    for name in ("a", "b"):
        draw(f"set/JPEGImages/{name}.jpg")
    write(tmp_path / "set/Annotations/a.xml", xml(("dog", (11, 21, 40, 35)), ("cat", (1, 1, 200, 100))))
    write(tmp_path / "set/Annotations/b.xml", xml(filename="b.jpg"))
    return tmp_path / "set"


def objects_of(collection: Collection) -> dict[str, tuple[Object, ...]]:
    return {picture.name: picture.objects for part in collection.parts for picture in part.pictures}


def test_pixels_by_hand(folder: Path) -> None:
    """Pixels 11 to 40, the first being 1, are the 30 that begin at 10."""
    notes = Notes()
    found = read_voc(folder, notes)
    assert (found.categories, [(part.name, part.names) for part in found.parts]) == (
        ("cat", "dog"),
        [("train", ("a.jpg", "b.jpg"))],
    )
    assert objects_of(found) == {"a.jpg": (Object(1, (10, 20, 30, 15)), Object(0, (0, 0, 200, 100))), "b.jpg": ()}
    assert next((p.height, p.width, p.path) for p in found.parts[0].pictures) == (100, 200, folder / "JPEGImages/a.jpg")
    assert notes.lines() == []


def test_difficult_objects_fractions_and_counting_from_0(folder: Path) -> None:
    write(folder / "Annotations/a.xml", xml(("dog", (11.5, 21, 40.25, 35)), difficult=1))
    write(folder / "Annotations/b.xml", xml(("dog", (0, 0, 9, 9)), filename="b.jpg"))
    notes = Notes()
    assert objects_of(read_voc(folder, notes)) == {
        "a.jpg": (Object(0, (10.5, 20, 29.75, 15), difficult=True),),
        "b.jpg": (Object(0, (-1, -1, 10, 10)),),
    }
    assert len(notes.lines()) == 1
    assert notes.lines()[0].startswith("1 boxes begin at 0 where VOC counts pixels from 1")


def test_lists_are_parts_and_classes_txt_orders(folder: Path) -> None:
    write(folder / "classes.txt", "dog\nbird\ncat\n")
    write(folder / "ImageSets/Main/val.txt", "a\n")
    write(folder / "ImageSets/Main/trainval.txt", "a\nb\n")
    notes = Notes()
    found = read_voc(folder, notes)
    assert (found.categories, [(part.name, part.names) for part in found.parts]) == (
        ("dog", "bird", "cat"),
        [("val", ("a.jpg",))],
    )
    assert [each.category for each in objects_of(found)["a.jpg"]] == [0, 2]
    assert notes.lines() == ["1 XML files are in no list of ImageSets/Main and were left out (first: b.xml)"]
    (folder / "ImageSets/Main/val.txt").unlink()
    write(folder / "ImageSets/Main/dog_trainval.txt", "a 1\nb -1\n")
    assert [(part.name, len(part.names)) for part in read_voc(folder, Notes()).parts] == [("train", 2)]


def test_images_by_their_stated_or_their_own_name(folder: Path, draw: Draw) -> None:
    """Programs write paths, or forget to mend the name; the extension is then looked for."""
    draw("set/JPEGImages/c.png")
    write(folder / "Annotations/a.xml", xml(filename=r"C:\Users\me\b.jpg"))
    write(folder / "Annotations/c.xml", xml(filename="c.jpeg"))
    assert read_voc(folder, Notes()).parts[0].names == ("b.jpg", "b.jpg", "c.png")
    (folder / "JPEGImages/c.png").unlink()
    message = r"c\.xml has no image: .*JPEGImages has neither c\.jpeg nor another c$"
    with pytest.raises(vertebra.InputError, match=message):
        read_voc(folder, Notes())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("<annotation><object></annotation>", r"line 1 of .*a\.xml is not XML: mismatched tag"),
        ("", r"line 1 of .*a\.xml is not XML: no element found"),
        ("<html></html>", r"a\.xml is not Pascal VOC's: it holds <html>, not <annotation>"),
        (xml(("dog", (1, 1, "x", 9))), r"line 4 of .*a\.xml: the object has 'x' for <xmax>; a number is needed"),
        (xml(("dog", (1, 1, 9, "nan"))), r"line 4 of .*a\.xml: the object has 'nan' for <ymax>"),
        (xml(("dog", (1, "", 9, 9))), r"line 4 of .*a\.xml: the object has no <bndbox/ymin>"),
        (xml((" ", (1, 1, 9, 9))), r"line 4 of .*a\.xml: the object has no <name>"),
        (xml(("dog", (1, 1, 9, 9)), ("ox", (1, 1, 9, 9))), r"line 8 of .*a\.xml has class 'ox', which classes\.txt"),
        (xml(size="100x200"), r"a\.xml says 100x200, image .*a\.jpg is 200x100; were the images resized"),
    ],
)
def test_files_that_are_wrong(folder: Path, content: str, message: str) -> None:
    write(folder / "classes.txt", "dog\n")
    write(folder / "Annotations/a.xml", content)
    with pytest.raises(vertebra.InputError, match=message):
        read_voc(folder, Notes())


@pytest.mark.parametrize("name", ["c", "../set/Annotations/a", "/etc/passwd"])
def test_lists_that_are_wrong(folder: Path, name: str) -> None:
    path = write(folder / "ImageSets/Main/train.txt", f"a\n{name}\n")
    with pytest.raises(vertebra.InputError, match=rf"^line 2 of {path} names '{name}', but there is no Annotations/"):
        read_voc(folder, Notes())


def test_folders_that_are_wrong(folder: Path, tmp_path: Path) -> None:
    write(folder / "ImageSets/Main/one.txt", "a\n")
    write(folder / "ImageSets/Main/two.txt", "a\n")
    with pytest.raises(vertebra.InputError, match=r"has 2 lists, but none of train\.txt, val\.txt, test\.txt"):
        read_voc(folder, Notes())
    with pytest.raises(vertebra.InputError, match="no folder Annotations in"):
        read_voc(tmp_path, Notes())
    (tmp_path / "Annotations").mkdir()
    with pytest.raises(vertebra.InputError, match="has no XML files"):
        read_voc(tmp_path, Notes())


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_entities_are_not_expanded(folder: Path, encoding: str) -> None:
    """Ten levels of ten make ten thousand million; a document type of any kind is refused before."""
    levels = "".join(f'<!ENTITY e{i} "{f"&e{i - 1};" * 10}">' for i in range(1, 11))
    bomb = f'<?xml version="1.0" encoding="{encoding}"?><!DOCTYPE x [<!ENTITY e0 "ha">{levels}]>'
    (folder / "Annotations/a.xml").write_bytes(f"{bomb}<annotation>&e10;</annotation>".encode(encoding))
    with pytest.raises(vertebra.InputError, match=r"a\.xml has a document type \(DTD\)"):
        read_voc(folder, Notes())
    (folder / "Annotations/a.xml").write_text(
        '<!DOCTYPE x SYSTEM "file:///etc/passwd"><annotation></annotation>', encoding="utf-8"
    )
    with pytest.raises(vertebra.InputError, match=r"a\.xml has a document type \(DTD\)"):
        read_voc(folder, Notes())


def test_pixels_as_they_are_written(collect: Callable[..., Collection], tmp_path: Path) -> None:
    """Rounded to the nearest borders of pixels; of a box within one pixel that pixel."""
    first = (10, 20, 30, 15)
    boxes = [first, (10.4, 20.6, 30.2, 14.7), (0, 0, 200, 100), (199.6, 99.7, 0.3, 0.2), (50.1, 60.2, 0.2, 9)]
    objects = [Object(1, box) for box in boxes]
    objects[2] = Object(0, boxes[2], [np.array([0, 0, 200, 0, 200, 100.0])], difficult=True)
    notes = Notes()
    write_voc(collect(train={"a.jpg": objects}), tmp_path / "out", notes, IMAGES["copy"])
    root = read_xml(tmp_path / "out/Annotations/a.xml")
    found = [tuple(int(side.text) for side in element.find("bndbox")) for element in root.findall("object")]
    assert found == [(11, 21, 40, 35), (11, 22, 41, 35), (1, 1, 200, 100), (200, 100, 200, 100), (51, 61, 51, 69)]
    assert [element.findtext("name") for element in root.findall("object")] == ["dog", "dog", "cat", "dog", "dog"]
    assert [element.findtext("difficult") for element in root.findall("object")] == ["0", "0", "1", "0", "0"]
    assert [root.findtext(f"size/{side}") for side in ("width", "height")] == ["200", "100"]
    assert (tmp_path / "out/ImageSets/Main/train.txt").read_text() == "a\n"
    assert (tmp_path / "out/classes.txt").read_text() == "cat\ndog\n"
    assert notes.lines() == ["1 masks were left out: VOC's XML files have boxes (first: a.jpg)"]


def test_parts_with_images_of_one_name_are_kept_apart(collect: Callable[..., Collection], tmp_path: Path) -> None:
    given = collect(train={"a.png": [Object(0, (1, 2, 3, 4))]}, val={"a.png": [Object(1, (5, 6, 7, 8))], "b.png": []})
    notes = Notes()
    write_voc(given, tmp_path / "out", notes, IMAGES["link"])
    assert [line.split(":")[0] for line in notes.lines()] == [
        "3 images are in a folder of their part, since parts have images of one name (first",
        "3 images do not end in .jpg, as some programs expect of JPEGImages (first",
    ]
    assert (tmp_path / "out/ImageSets/Main/trainval.txt").read_text() == "train/a\nval/a\nval/b\n"
    found = read_voc(tmp_path / "out", Notes())
    assert objects_of(found) == {
        "train/a.png": (Object(0, (1, 2, 3, 4)),),
        "val/a.png": (Object(1, (5, 6, 7, 8)),),
        "val/b.png": (),
    }


def test_classes_of_one_name_become_one(collect: Callable[..., Collection], tmp_path: Path) -> None:
    """Roboflow's category 0 is named after the project, often as its only class."""
    given = collect(train={"a.jpg": [Object(1, (1, 2, 3, 4))]})
    notes = Notes()
    write_voc(Collection(given.source, ("cat", "cat"), given.parts), tmp_path / "out", notes, IMAGES["link"])
    assert read_voc(tmp_path / "out", Notes()).categories == ("cat",)
    assert notes.lines()[0].startswith("1 category shares its name with another")


def test_torchvision_reads_what_is_written(collect: Callable[..., Collection], tmp_path: Path) -> None:
    given = collect(train={"a.jpg": [Object(0, (10, 20, 30, 15)), Object(1, (0, 0, 200, 100))], "b.jpg": []})
    write_voc(given, tmp_path / "VOCdevkit/VOC2012", Notes(), IMAGES["link"])
    data = VOCDetection(tmp_path, "2012", "train")
    assert len(data) == 2
    image, target = data[0]
    assert image.size == (200, 100)
    assert [
        (each["name"], {side: int(value) for side, value in each["bndbox"].items()})
        for each in target["annotation"]["object"]
    ] == [
        ("cat", {"xmin": 11, "ymin": 21, "xmax": 40, "ymax": 35}),
        ("dog", {"xmin": 1, "ymin": 1, "xmax": 200, "ymax": 100}),
    ]
    assert data[1][1]["annotation"]["object"] == []
