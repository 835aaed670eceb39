"""A report's figures as JSON and as Markdown."""

import json
import re
from pathlib import Path

import pytest

from vertebra.tools.report.content import Confusion, Content, Headline, Table
from vertebra.tools.report.page import write_report
from vertebra.tools.report.plain import confusions, markdown


@pytest.fixture(scope="module")
def folder(hostile: Content, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(tmp_path_factory.mktemp("report"), hostile).parent


def test_json_has_the_figures_without_the_pictures(folder: Path, hostile: Content) -> None:
    def refuse(name: str) -> None:
        raise ValueError(f"{name} is not JSON")

    read = json.loads((folder / "report.json").read_text(encoding="utf-8"), parse_constant=refuse)
    assert read["title"] == hostile.title
    assert read["headlines"][0] == {
        "section": "bbox",
        "name": "AP",
        "value": 0.374,
        "low": 0.3611,
        "high": 0.3888,
        "meaning": "mean <over> IoU",
    }
    assert read["headlines"][1]["value"] is None  # NaN
    assert read["tables"][1]["rows"][3] == ["$E=mc^2$", 30, None, None]
    assert read["learning"]["metrics"] == {"bbox/AP": [[2, 0.3]]}
    assert read["worst"][1] == {
        "name": "1.jpg",
        "quality": 0.01,
        "objects": [["<img src=x onerror=alert(2)>", "medium"], ["<b>bold</b>", "large"]],
        "note": "1 of 9 | found",
    }
    assert len(read["curves"]) == 2 * 11 * 4 * 3


def test_markdown_by_hand() -> None:
    content = Content(
        "a_b",
        "object detection",
        facts=[("images", "5")],
        headlines=[
            Headline("bbox", "AP", 0.37, 0.3, 0.45, "all"),
            Headline("segm", "AP", 0.3, None, None, "all"),
            Headline("segm", "APs", float("nan"), None, None, "small"),
        ],
        tables=[Table("bbox", "all", ["class", "objects", "AP"], [["a|b", 3, 0.5], ["<i>", 0, None]], ["AP"])],
        confusion=Confusion(["cat", "dog"], ["cat", "dog"], [[3, 1], [0, 0]], "Images."),
        notes=["two\nlines"],
    )
    expected = r"""# a\_b

Object detection

|  |  |
| --- | --- |
| images | 5 |

## Figures

|  | Boxes | Masks | meaning |
| --- | --- | --- | --- |
| AP | 0.370 (0.300 to 0.450) | 0.300 | all |
| APs | - | - | small |

In brackets: the interval of 95 % over images.

## Classes: boxes

| class | objects | AP |
| --- | ---: | ---: |
| a\|b | 3 | 0.500 |
| \<i\> | 0 | - |

## Confusions

Images.

| true | found | count | share of its row |
| --- | --- | ---: | ---: |
| cat | dog | 1 | 0.250 |

## Notes

- two lines
"""
    assert markdown(content) == expected


def test_markdown_of_any_names_keeps_its_tables(folder: Path) -> None:
    text = (folder / "report.md").read_text(encoding="utf-8")
    tables = re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE)
    assert len(tables) == 2 + 8 + 1 + 1 + 2
    for table in tables:
        columns = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(columns) == 1, table
    assert not re.search(r"(?<!\\)[<>$]", text)


def test_confusions_are_by_count() -> None:
    found = confusions(Confusion(["a", "b"], ["a", "b", "background"], [[5, 1, 4], [2, 0, 0]], ""), most=2)
    assert found == [("a", "background", 4, 0.4), ("b", "a", 2, 1.0)]


def test_a_name_that_cannot_be_encoded_is_written(tmp_path: Path) -> None:
    """As the operating system gives the name of a file that is no UTF-8."""
    page = write_report(tmp_path, Content("caf\udce9", "classification", notes=["\udce9"]))
    assert "caf?" in page.read_text(encoding="utf-8")
    assert "caf?" in (tmp_path / "report.md").read_text(encoding="utf-8")
