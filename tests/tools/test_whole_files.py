"""Files are there whole or not at all, and an older one stays until then."""

import csv
import json
from pathlib import Path

from vertebra.tools.whole_files import JsonList, Table


def test_a_list_of_json(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.json"
    items = [{"name": "é", "bbox": [1.5, 2e-07]}, {"n": 1}, {"n": None}]
    found = JsonList(path)
    assert not path.parent.exists()  # nothing is made before there is something to write
    found.extend(items[:1])
    found.extend([])
    found.extend(items[1:])
    assert not path.exists()
    found.keep()
    found.close()
    assert json.loads(path.read_text()) == items
    assert [file.name for file in path.parent.iterdir()] == ["a.json"]


def test_an_empty_list(tmp_path: Path) -> None:
    found = JsonList(tmp_path / "a.json")
    found.extend([])
    found.keep()
    assert json.loads((tmp_path / "a.json").read_text()) == []


def test_what_is_not_kept_leaves_the_older_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("[1]")
    found = JsonList(path)
    found.extend([{"n": i} for i in range(10_000)])
    assert path.read_text() == "[1]"
    found.close()
    found.close()
    assert path.read_text() == "[1]"
    assert list(tmp_path.iterdir()) == [path]


def test_a_table(tmp_path: Path) -> None:
    found = Table(tmp_path / "a.csv", ("name", "n"))
    found.extend([])
    found.extend([{"name": "tree, or bush", "n": 1}])
    found.extend([{"name": "two\nlines", "n": 2.5}])
    found.keep()
    assert (tmp_path / "a.csv").read_text().splitlines()[0] == "name,n"
    with (tmp_path / "a.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows == [{"name": "tree, or bush", "n": "1"}, {"name": "two\nlines", "n": "2.5"}]
    bare = Table(tmp_path / "bare.csv", ("name", "n"))
    bare.keep()
    assert (tmp_path / "bare.csv").read_text() == "name,n\n"
