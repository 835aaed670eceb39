"""Reports with names that no page may trip over, and a browser that opens them."""

import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch

from vertebra.tools.draw import encode_picture
from vertebra.tools.report.content import (
    ALL,
    SIZES,
    Confusion,
    Content,
    Curve,
    ErrorShares,
    Headline,
    ImageCard,
    Learning,
    Table,
)

HOSTILE = [
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(2)>",
    "<b>bold</b>",
    "$E=mc^2$",
    "\"two' & `three`",
    "a|b &lt; c",
    "Größe Собака",
    "a name that is " + "very " * 60 + "long",
    "{{ 7*7 }} %{x}",
    "__proto__",
]
VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}


@dataclass
class Element:
    """A part of a page, as a browser has it."""

    tag: str
    attributes: dict[str, str] = field(default_factory=dict)
    children: "list[Element | str]" = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(child if isinstance(child, str) else child.text for child in self.children)

    def all(self, tag: str = "", **attributes: str) -> "list[Element]":
        """Return the elements within of this tag, and with these words in attributes (`_` for `-`, `class_`)."""
        return [
            element
            for element in self._within()
            if tag in ("", element.tag)
            and all(
                word in element.attributes.get(name.rstrip("_").replace("_", "-"), "").split()
                for name, word in attributes.items()
            )
        ]

    def one(self, id: str) -> "Element":
        (element,) = self.all(id=id)
        return element

    @property
    def hidden(self) -> bool:
        return "hidden" in self.attributes

    def _within(self) -> "Iterator[Element]":
        for child in self.children:
            if isinstance(child, Element):
                yield child
                yield from child._within()


class Reader(HTMLParser):
    """Makes Elements of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.open = [Element("")]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, {name: value or "" for name, value in attrs})
        self.open[-1].children.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open[-1].children.append(Element(tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop().tag == tag

    def handle_data(self, data: str) -> None:
        self.open[-1].children.append(data)


def _read(text: str) -> Element:
    reader = Reader()
    reader.feed(text)
    reader.close()
    assert len(reader.open) == 1
    return reader.open[0]


@pytest.fixture(scope="session")
def read_page() -> Callable[[str], Element]:
    """Read a page's text."""
    return _read


@pytest.fixture(scope="session")
def browse(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Element]:
    """Open a page in Chromium, without a network, and return what its scripts have made of it."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no chromium is installed, which opens the page")

    def call(page: Path, choice: str = "", *options: str) -> Element:
        command = [
            chromium, "--headless=new", "--no-sandbox", "--disable-gpu", "--proxy-server=127.0.0.1:9",
            "--virtual-time-budget=4000", f"--user-data-dir={tmp_path_factory.mktemp('browser')}", "--dump-dom",
            *options, f"{page.as_uri()}{choice}",
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        return _read(done.stdout)

    return call


def _tables(section: str) -> list[Table]:
    """Return tables in which class i of size j has AP 0.04 * i + 0.01 * j; the fourth has no small objects."""
    tables = []
    for j, size in enumerate(SIZES):
        rows = [
            [name, 10 * i, *([None, None] if (i, size) == (3, "small") else [0.04 * i + 0.01 * j, 0.5])]
            for i, name in enumerate(HOSTILE)
        ]
        tables.append(Table(section, size, ["class", "objects", "AP", "AP<50>"], rows, ["AP", "AP<50>"]))
    return tables


def _curves(section: str) -> list[Curve]:
    recalls = [0.0, 0.5, 1.0]
    return [
        Curve(section, label, size, iou, recalls, [1.0, 0.1 * i, 0.0])
        for i, label in enumerate([*HOSTILE, ALL])
        for size in SIZES
        for iou in ("0.50", "0.75", "0.50:0.95")
    ]


def _card(row: int, quality: float) -> ImageCard:
    picture = encode_picture(torch.full((3, 20, 48), 10 * row, dtype=torch.uint8))
    sizes = ("small", "medium")
    objects = [(HOSTILE[row % 10], sizes[row % 2]), (HOSTILE[(row + 1) % 10], "large")]
    name = "<img src=http://127.0.0.1:9/x onerror=alert(3)>.jpg" if row == 0 else f"{row}.jpg"
    return ImageCard(name, quality, picture, objects, f"{row} of 9 | found")


@pytest.fixture(scope="session")
def hostile() -> Content:
    """A report with every part, whose names are HTML, Markdown, mathematics, templates, and very long."""
    classes = [*HOSTILE, "background"]
    return Content(
        HOSTILE[0],
        "instance segmentation",
        facts=[("images", "20"), ("<i>data</i>", HOSTILE[1])],
        headlines=[
            Headline("bbox", "AP", 0.374, 0.3611, 0.3888, "mean <over> IoU"),
            Headline("bbox", "APs", float("nan"), None, None, "small objects"),
            Headline("segm", "AP", 0.334, 0.32, 0.35, "mean <over> IoU"),
        ],
        tables=[*_tables("bbox"), *_tables("segm")],
        curves=[*_curves("bbox"), *_curves("segm")],
        errors=[ErrorShares("bbox", ["Cls", "Miss"], [1.25, 3.5], ["<b>wrong</b> class", "not found"])],
        confusion=Confusion(classes, classes, [[11 * i + j for j in range(11)] for i in range(11)], "IoU > 0.5"),
        learning=Learning([(1, 2.0), (2, 1.0)], [(2, 1.5)], {"bbox/AP": [(2, 0.3)]}, [(1, 0.1), (2, 0.2)]),
        ranking="Quality is <b>something</b>.",
        worst=[_card(row, 0.01 * row) for row in range(10)],
        best=[_card(row, 1 - 0.01 * row) for row in range(10, 20)],
        notes=["ids <script>alert(4)</script> are there twice"],
    )
