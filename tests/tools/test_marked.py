"""Tables between marks."""

from pathlib import Path

import pytest

from vertebra.backbones import InputError
from vertebra.tools.marked import markdown, write_between

PAGE = "before\n<!-- a: by x -->\nold\n<!-- end of a -->\nmiddle\n<!-- b: by y -->\n<!-- end of b -->\n"


def test_only_what_is_between_the_marks_changes(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    write_between(page, "a", "new\nlines\n")
    assert page.read_text() == PAGE.replace("old\n", "\nnew\nlines\n\n")
    write_between(page, "a", "new\nlines\n")
    assert page.read_text() == PAGE.replace("old\n", "\nnew\nlines\n\n")


@pytest.mark.parametrize("text", ["", "<!-- a: x -->\n", "<!-- end of a -->\n<!-- a: x -->\n", PAGE + PAGE])
def test_a_page_without_the_marks_stays_as_it_is(tmp_path: Path, text: str) -> None:
    page = tmp_path / "page.md"
    page.write_text(text)
    with pytest.raises(InputError, match=r"page\.md has not the lines '<!-- a: … -->' and '<!-- end of a -->'"):
        write_between(page, "a", "new")
    assert page.read_text() == text


def test_markdown() -> None:
    assert markdown(("a", "b"), [("x", "1"), ("y", "2")]) == "| a | b |\n| --- | --: |\n| x | 1 |\n| y | 2 |\n"
