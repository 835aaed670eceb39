"""Pictures and data sets in the common form, small enough to be worked out by hand."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from PIL import Image

from vertebra.tools.data.exchange.common import Collection, Object, Part, Picture

Draw = Callable[..., Path]


@pytest.fixture
def draw(tmp_path: Path) -> Draw:
    """Write an image of a (height, width), by default 100 x 200, below the test's folder."""

    def call(name: str, size: tuple[int, int] = (100, 200)) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", size[::-1], 90).save(path)
        return path

    return call


@pytest.fixture
def collect(draw: Draw, tmp_path: Path) -> Callable[..., Collection]:
    """Return a data set of the classes cat and dog with these objects, by part and name of the image."""

    def call(size: tuple[int, int] = (100, 200), **parts: dict[str, Sequence[Object]]) -> Collection:
        made = []
        for part, pictures in parts.items():
            found = [
                Picture(draw(f"given/{part}/{name}", size), name, *size, tuple(objects))
                for name, objects in pictures.items()
            ]
            made.append(Part(part, tuple(pictures), found))
        return Collection(tmp_path / "given", ("cat", "dog"), tuple(made))

    return call
