"""The report on disk: one page for a browser that asks for nothing else, and the same figures as JSON and Markdown."""

from __future__ import annotations

import base64
import hashlib
import json
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

from .content import ALL, SIZES, Content, Curve, ImageCard
from .plain import as_json, figures, markdown, pivoted, section_title, shown

HERE = Path(__file__).parent

# In the order in which the page runs them, after Plotly's own.
SCRIPTS = ("state.js", "plots.js", "confusion.js", "training.js", "tables.js", "script.js")

# Digits of the numbers in curves and tables, finer than any screen.
DIGITS = 4


class Size(NamedTuple):
    """Pixels of a picture, so that a browser keeps its place free."""

    width: int
    height: int


def write_report(folder: Path, content: Content) -> Path:
    """Write `index.html`, `report.json` and `report.md` in a folder, which is made; return the path of the page."""
    folder.mkdir(parents=True, exist_ok=True)
    # What cannot be encoded, as the name of a file that is no UTF-8, is written as a question mark.
    for name, text in (
        ("report.json", as_json(content)),
        ("report.md", markdown(content)),
        ("index.html", page(content)),
    ):
        (folder / name).write_text(text, encoding="utf-8", errors="replace")
    return folder / "index.html"


def page(content: Content) -> str:
    """Return the page: pictures, scripts and style are part of it, and its policy forbids a browser everything else."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from plotly.offline import get_plotlyjs

    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"shown": shown, "section_title": section_title, "data_uri": _data_uri}
    sections, rows = pivoted(content.headlines)
    scripts = [get_plotlyjs(), "\n".join((HERE / name).read_text(encoding="utf-8") for name in SCRIPTS)]
    return environment.get_template("page.html").render(
        content=content,
        sections=sections,
        rows=rows,
        tiles=[next(h for h in content.headlines if h.section == section) for section in sections],
        galleries=_galleries(content),
        classes=_classes(content),
        sizes=_sizes(content),
        data=_embedded(_plotted(content)),
        style=(HERE / "style.css").read_text(encoding="utf-8"),
        scripts=scripts,
        hashes=[_sha256(script) for script in scripts],
    )


def _galleries(content: Content) -> list[tuple[str, str, list[tuple[ImageCard, Size, str]]]]:
    """Return of the worst and the best images: an id, a title, and each card with its size and its objects as JSON."""
    return [
        (name, f"{name.capitalize()} images", [(card, _size(card.picture), json.dumps(card.objects)) for card in cards])
        for name, cards in (("worst", content.worst), ("best", content.best))
        if cards
    ]


def _classes(content: Content) -> list[str]:
    """Return the names that can be chosen: those of tables, curves and cards, in the order in which they come."""
    names = [str(row[0]) for table in content.tables for row in table.rows]
    names += [curve.label for curve in content.curves if curve.label != ALL]
    names += [name for card in (*content.worst, *content.best) for name, _ in card.objects]
    return list(dict.fromkeys(names))


def _sizes(content: Content) -> list[str]:
    """Return the sizes that can be chosen, `all` first; none where there is nothing to choose."""
    there = {table.size for table in content.tables} | {curve.size for curve in content.curves}
    there |= {size for card in (*content.worst, *content.best) for _, size in card.objects}
    sizes = [size for size in SIZES if size in there or size == "all"]
    return sizes if len(sizes) > 1 else []


def _plotted(content: Content) -> dict[str, Any]:
    """Return what the page's script draws; of the curves, those over the same recalls name them once."""
    recalls: dict[tuple[float, ...], int] = {}
    curves = [_compact(curve, recalls) for curve in content.curves]
    parts = {name: getattr(content, name) for name in ("tables", "errors", "confusion", "learning")}
    sections = [*(table.section for table in content.tables), *(curve.section for curve in content.curves)]
    return {
        **figures(parts),
        "recalls": [list(x) for x in recalls],
        "curves": curves,
        "sectionTitles": {section: section_title(section) for section in dict.fromkeys(sections)},
        "all": ALL,
    }


def _compact(curve: Curve, recalls: dict[tuple[float, ...], int]) -> list[Any]:
    place = recalls.setdefault(tuple(round(x, DIGITS) for x in curve.x), len(recalls))
    return [curve.section, curve.label, curve.size, curve.iou, place, figures([round(y, DIGITS) for y in curve.y])]


def _embedded(data: Any) -> str:
    """Return JSON that ends no element of HTML, whatever is in its texts."""
    return json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")


def _size(picture: bytes) -> Size:
    from PIL import Image

    return Size(*Image.open(BytesIO(picture)).size)


def _data_uri(picture: bytes) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(picture).decode()}"


def _sha256(script: str) -> str:
    """Return the hash of a script as a Content-Security-Policy has it."""
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
