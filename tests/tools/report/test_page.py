"""The page in a browser: what it shows, what its filters do, and that no name breaks it or gets out of it."""

import base64
import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from vertebra.tools.report.content import Content
from vertebra.tools.report.page import write_report

Browse = Callable[..., Any]


@pytest.fixture(scope="module")
def written(hostile: Content, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(tmp_path_factory.mktemp("report") / "a" / "b", hostile)


@pytest.fixture(scope="module")
def opened(browse: Browse, written: Path) -> Any:
    return browse(written)


def names_in(content: Content) -> list[str]:
    return [row[0] for row in content.tables[0].rows]


def drawn(page: Any, plot: str) -> set[str]:
    """Return the texts that Plotly has drawn in a plot."""
    return {text.text for text in page.one(plot).all("text")}


def cut(name: str, most: int) -> str:
    return name if len(name) <= most else f"{name[: most - 1]}…"


def test_everything_is_drawn_and_nothing_fails(opened: Any) -> None:
    assert opened.one("trouble").hidden, opened.one("trouble").text
    plots = {plot.attributes["id"] for plot in opened.all("div", class_="js-plotly-plot")}
    kinds = ("overlap", "by-class", "bars", "errors", "confusion", "loss", "metrics", "rate")
    assert plots == {f"plot-{kind}" for kind in kinds}
    for plot in plots:
        assert opened.one(plot).all("svg", class_="main-svg")
    assert {"IoU 0.50: 0.667", "IoU 0.75: 0.667", "IoU 0.50:0.95: 0.667"} <= drawn(opened, "plot-overlap")
    assert {"Cls", "Miss", "1.25", "3.50"} <= drawn(opened, "plot-errors")
    assert {"bbox/AP 0.300"} <= drawn(opened, "plot-metrics")
    cells = [cell.text for cell in opened.one("figures").all("td")]
    assert cells == ["0.374 0.361–0.389", "0.334 0.320–0.350", "mean <over> IoU", "-", "", "small objects"]
    assert len(opened.all("article")) == 20
    pictures = [card.all("img")[0].attributes for card in opened.all("article")]
    assert {(picture["width"], picture["height"]) for picture in pictures} == {("48", "20")}
    assert pictures[1]["alt"] == "1.jpg: truth on the left, prediction on the right"


def test_names_are_text_everywhere(opened: Any, hostile: Content) -> None:
    names = names_in(hostile)
    assert opened.all("title")[0].text == opened.all("h1")[0].text == hostile.title
    assert [option.attributes["value"] for option in opened.one("class").all("option")] == ["", *names]
    assert [option.text for option in opened.one("class").all("option")][1:] == names
    assert [name.text for name in opened.one("class-table").all("button", class_="pick")] == names
    assert [h3.text for h3 in opened.one("worst").all("h3")] == [card.name for card in hostile.worst]
    assert {cut(name, 24) for name in names} <= drawn(opened, "plot-bars")
    assert {cut(name, 20) for name in [*names, "background"]} <= drawn(opened, "plot-confusion")
    assert "AP<50>" in [button.text for button in opened.one("measures").all("button")]
    assert hostile.notes == [item.text for item in opened.one("figures").all("li")]
    # Nothing of the names has become an element: the only scripts are ours, and no element acts on an event.
    assert len(opened.all("script")) == 3
    assert not opened.all("b", class_="") or {b.text for b in opened.all("b")} <= {f"{i / 100:.3f}" for i in range(101)}
    assert not [e for e in opened.all() if any(name.startswith("on") for name in e.attributes)]


def test_nothing_is_asked_of_a_network(opened: Any, written: Path, read_page: Callable[[str], Any]) -> None:
    """Every address is a picture within the page; its policy allows no other, and no script but the page's own."""
    source = read_page(written.read_text(encoding="utf-8"))
    for page in (source, opened):
        addresses = [e.attributes[name] for e in page.all() for name in ("src", "srcset") if name in e.attributes]
        assert len(addresses) >= 20
        assert all(address.startswith("data:") for address in addresses)
        assert all(link.attributes["href"].startswith("#") for link in page.all("a") if "href" in link.attributes)
    (policy,) = [meta.attributes["content"] for meta in source.all("meta") if "http-equiv" in meta.attributes]
    scripts = [script for script in source.all("script") if "type" not in script.attributes]
    hashes = [base64.b64encode(hashlib.sha256(script.text.encode()).digest()).decode() for script in scripts]
    allowed = " ".join(f"'sha256-{one}'" for one in hashes)
    assert policy == (f"default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; script-src {allowed}")


def test_filters(browse: Browse, written: Path, hostile: Content) -> None:
    """A class and a size in the address act on curves, bars, table, confusions and images."""
    names = names_in(hostile)
    choice = urlencode({"class": names[2], "size": "small", "section": "segm", "theme": "dark"})
    page = browse(written, f"#{choice}")
    assert page.one("trouble").hidden, page.one("trouble").text
    assert page.all("html")[0].attributes["data-theme"] == "dark"
    (row,) = page.one("class-table").all("tbody")[0].all("tr")
    assert [cell.text for cell in row.all("td")] == ["20", "0.090", "0.500"]
    assert "IoU 0.50: 0.400" in drawn(page, "plot-overlap")  # (1 + 0.2 + 0) / 3
    assert f"{names[2]} 0.400" in drawn(page, "plot-by-class")
    assert names[3] not in drawn(page, "plot-bars")  # has no small objects
    assert names[4] in drawn(page, "plot-bars")
    pairs = [[cell.text for cell in row.all("td")] for row in page.one("confusion-list").all("tr")[1:]]
    assert len(pairs) == 20
    assert all(names[2] in pair[:2] for pair in pairs)
    assert pairs[0][:3] == ["background", names[2], "112"]
    shown = [card.all("h3")[0].text for card in page.all("article") if not card.hidden]
    assert shown == ["2.jpg", "12.jpg"]
    assert [output.text for output in page.all("output")] == ["1 of 10", "1 of 10"]
    pressed = [b.text for b in page.all("button", aria_pressed="true")]
    assert pressed == ["Masks", "small", "AP"]
    assert not page.one("clear").hidden
    assert "Not counted for these." in drawn(page, "plot-errors")


# What a reader does with a mouse; the page's policy would not let this script run.
CLICKS = """
const click = (selector, i = 0) => document.querySelectorAll(selector)[i].click();
click("#class-table thead button", 2);
click("#measures button", 1);
click("#sizes button", 2);
click("#theme");
click("#worst .picture", 1);
click("#next");
document.title = location.hash;
"""


def test_clicks(browse: Browse, written: Path, tmp_path: Path) -> None:
    """Sorting, another measure, a size, light and dark, and the pictures enlarged, one after the other."""
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", written.read_text(encoding="utf-8"))
    path = tmp_path / "index.html"
    path.write_text(text.replace("</body>", f"<script>{CLICKS}</script></body>"), encoding="utf-8")
    page = browse(path)
    assert page.one("trouble").hidden, page.one("trouble").text
    assert page.all("title")[0].text == "#size=medium&bars=AP%3C50%3E&theme=dark"
    assert page.all("html")[0].attributes["data-theme"] == "dark"
    table = page.one("class-table")
    heads = [head.attributes.get("aria-sort") for head in table.all("th", scope="col")]
    assert heads == [None, None, "descending", None]
    values = [float(row.all("td")[1].text) for row in table.all("tbody")[0].all("tr")]
    assert values == [0.38, 0.34, 0.3, 0.26, 0.22, 0.18, 0.14, 0.1, 0.06, 0.02]
    assert "AP<50>" in drawn(page, "plot-bars")
    # Medium objects are in images 1, 3, 5, …: these follow each other.
    (dialog,) = page.all("dialog")
    assert "open" in dialog.attributes
    assert dialog.all("span")[0].text == "3.jpg · 0.030 · 3 of 9 | found"


def test_what_does_not_apply_is_left_out(browse: Browse, tmp_path: Path) -> None:
    page = browse(write_report(tmp_path, Content("quickstart", "object detection")), "#class=dog&size=small")
    assert page.one("trouble").hidden, page.one("trouble").text
    assert [section.attributes["id"] for section in page.all("section")] == ["figures"]
    assert not page.all("div", class_="js-plotly-plot")
    assert not page.all("select")


def test_what_is_forbidden_is_told(browse: Browse, tmp_path: Path) -> None:
    """Were there an address in the page after all, the browser would not ask for it, and the page would say so."""
    path = write_report(tmp_path, Content("quickstart", "object detection"))
    text = path.read_text(encoding="utf-8")
    late = '<img src="http://127.0.0.1:9/late.png" alt=""></body>'
    path.write_text(text.replace("</body>", late), encoding="utf-8")
    page = browse(path)
    assert not page.one("trouble").hidden
    assert "img-src http://127.0.0.1:9/late.png" in page.one("trouble").text
