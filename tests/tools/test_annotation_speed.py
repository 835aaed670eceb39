"""The benchmark of annotations: its files are COCO's, and both readers see the same in them."""

import json
from pathlib import Path

import pytest
from pycocotools.coco import COCO

from vertebra.tools.annotation_speed import READERS, measure, write_synthetic


def test_synthetic_files(tmp_path: Path) -> None:
    """More than a thousand records, which are written in parts."""
    path = write_synthetic(tmp_path, 1100, 3)
    theirs = COCO(str(path))
    assert (len(theirs.imgs), len(theirs.anns), len(theirs.cats)) == (1100, 3300, 80)
    assert all(len(annotations) == 3 for annotations in theirs.imgToAnns.values())
    assert len({tuple(a["bbox"]) for a in theirs.anns.values()}) == 1000
    readers = [READERS[name](path) for name in ("vertebra", "pycocotools")]
    assert [len(reader) for reader in readers] == [1100, 1100]
    assert [reader[1099] for reader in readers] == [3, 3]


@pytest.mark.slow
def test_costs(tmp_path: Path) -> None:
    path = write_synthetic(tmp_path, 200, 2)
    cost = measure("vertebra", path, 200, 2, workers=1, samples=8)
    assert cost.annotations == len(json.loads(path.read_text())["annotations"])
    assert 0 < cost.again < cost.first
    for private, share in cost.workers.values():
        assert 0 < private <= share
