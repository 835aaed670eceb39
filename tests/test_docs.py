"""The Python on the pages of docs/ runs: the blocks of a page one after the other, in an empty folder."""

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted((ROOT / "docs").glob("*.md"))

# What a page needs as a whole. A single block names what it needs after its language: ```python mmdet
NEEDS = {
    "detectron2.md": "detectron2",
    "mmdetection.md": "mmengine",
    "segmentation_models_pytorch.md": "segmentation_models_pytorch",
}


def blocks(page: Path) -> list[tuple[str, str]]:
    """Return (what it needs, code) for each block of Python, at the lines where it stands on its page."""
    text = page.read_text()
    found = []
    for block in re.finditer(r"^```python *(\w*)\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        lines_before = text[: block.start(2)].count("\n")
        found.append((block[1], "\n" * lines_before + block[2]))
    return found


RUNS = [(page, need) for page in PAGES for need in dict.fromkeys(need for need, _ in blocks(page))]


@pytest.mark.parametrize(
    ("page", "need"), [pytest.param(page, need, id=f"{page.name} {need}".strip()) for page, need in RUNS]
)
def test_a_page(page: Path, need: str, tmp_path: Path) -> None:
    code = [text for package, text in blocks(page) if package in ("", need)]
    package = need or NEEDS.get(page.name)
    if package and find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    runner = "import sys\nspace = {'__name__': '__main__'}\nfor text in eval(sys.argv[2]):\n"
    runner += "    exec(compile(text, sys.argv[1], 'exec'), space)\n"
    done = subprocess.run(
        [sys.executable, "-c", runner, str(page), repr(code)],
        cwd=tmp_path,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
