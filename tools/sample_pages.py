"""Cards of samples as files: a grid PNG, and a page of HTML that needs nothing beside it."""

from __future__ import annotations

import base64
import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from io import BytesIO
from math import ceil, sqrt
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .data.sets import Array
from .draw import colour, draw_caption, draw_legend
from .sample_cards import CELL, Card, Kind, cut, short_paths

TEMPLATES = Path(__file__).parent
GAP = 8
# Space of an unreadable sample in the grid.
BLANK = (3, CELL * 3 // 4, CELL)


def write_grid(path: Path, cards: Sequence[Card], names: Mapping[int, str]) -> None:
    """Write a PNG with a picture and a caption of each card, in rows, about as many as columns, and a legend below."""
    from PIL import Image

    columns, names = ceil(sqrt(len(cards))), cut(names)
    cells = [_cell(card, file, names) for card, file in zip(cards, short_paths(cards), strict=True)]
    rows = [_row(cells[start : start + columns], columns) for start in range(0, len(cells), columns)]
    width = rows[0].shape[2]
    legend = draw_legend(width, sorted(_samples_with(cards)), _by_label(names))
    Image.fromarray(_as_array(torch.cat([*rows, legend], dim=1))).save(path)


def _by_label(names: Mapping[int, str]) -> list[str]:
    return [names.get(label, "") for label in range(max(names) + 1)]


def _cell(card: Card, file: str, names: Mapping[int, str]) -> Tensor:
    picture = torch.full(BLANK, 200, dtype=torch.uint8) if card.cell is None else card.cell
    said = "cannot be read" if card.error else _counted(card, names)
    caption = [draw_caption(CELL, text, text_size=14) for text in (Path(file).name, said)]
    spare = CELL - picture.shape[2]
    return torch.cat([F.pad(picture, (spare // 2, spare - spare // 2), value=255), *caption], dim=1)


def _counted(card: Card, names: Mapping[int, str]) -> str:
    """Return the names of what is in a sample, with their numbers above one, the most frequent first."""
    counts = (card.counts or {}).items()
    return ", ".join(names[label] + (f" x {count}" if count > 1 else "") for label, count in counts) or "nothing"


def _row(cells: Sequence[Tensor], columns: int) -> Tensor:
    """Return (3, h, w): the cells side by side in white space, as wide as a full row."""
    height = max(cell.shape[1] for cell in cells)
    placed = [F.pad(cell, (GAP, 0, GAP, height - cell.shape[1]), value=255) for cell in cells]
    row = torch.cat(placed, dim=2)
    return F.pad(row, (0, columns * (CELL + GAP) + GAP - row.shape[2]), value=255)


def _samples_with(cards: Sequence[Card]) -> Counter[int]:
    """Return the labels that are in samples, with the number of samples."""
    return Counter(label for card in cards for label in card.counts or ())


def write_page(
    path: Path, cards: Sequence[Card], names: Mapping[int, str], kind: Kind, *, title: str, about: str
) -> None:
    """Write the page: pictures are part of it, and its policy lets a browser load nothing else, and run no script but
    its own.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {"sha256": _sha256, "data_uri": _data_uri, "hex_colour": _hex_colour}
    text = environment.get_template("sample_page.html").render(
        title=title,
        about=about,
        kind=kind,
        names=names,
        samples_with=sorted(_samples_with(cards).items(), key=lambda pair: (-pair[1], names[pair[0]])),
        cards=list(zip(cards, short_paths(cards), strict=True)),
    )
    path.write_text(text, encoding="utf-8")


def _sha256(text: Any) -> str:
    """Return the hash of a script as a Content-Security-Policy has it."""
    return base64.b64encode(hashlib.sha256(str(text).encode()).digest()).decode()


def _data_uri(picture: Tensor) -> str:
    from PIL import Image

    file = BytesIO()
    Image.fromarray(_as_array(picture)).save(file, "JPEG", quality=90)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


def _as_array(picture: Tensor) -> Array:
    return picture.permute(1, 2, 0).contiguous().numpy()


def _hex_colour(label: int) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour(label))
