"""`vertebra data browse`: the samples of training itself, as a grid and as a page that no data can break."""

import base64
import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from vertebra.tools.config import compose
from vertebra.tools.data.coco import read_coco, require_masks
from vertebra.tools.data.shapes import SHAPES
from vertebra.tools.data.stream import TrainingStream
from vertebra.tools.data.transforms import Transform, Transforms
from vertebra.tools.draw import colour, enlarge

Command = Callable[..., Any]


@dataclass
class Shown:
    """A card of the page: its texts by element, the rows of its table, its picture, and the labels that it is under."""

    labels: list[int]
    texts: dict[str, list[str]] = field(default_factory=dict)
    rows: list[list[str]] = field(default_factory=list)
    source: str = ""

    @property
    def file(self) -> str:
        return self.texts["h2"][0]

    @property
    def about(self) -> str:
        return self.texts["p"][0]

    @property
    def image_id(self) -> int:
        return int(re.search(r"image id (\d+)", self.about)[1])

    @property
    def picture(self) -> torch.Tensor:
        content = base64.b64decode(self.source.removeprefix("data:image/jpeg;base64,"))
        return torch.from_numpy(np.asarray(Image.open(BytesIO(content)))).permute(2, 0, 1)


class Page(HTMLParser):
    """What a browser finds in a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.cards: list[Shown] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.texts: dict[str, list[str]] = {}
        self.open: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag == "article":
            self.cards.append(Shown([int(label) for label in (dict(attrs)["data-labels"] or "").split()]))
        if tag == "img" and "article" in self.open:
            self.cards[-1].source = dict(attrs)["src"] or ""
        if tag == "tr" and "tbody" in self.open:
            self.cards[-1].rows.append([])
        if tag not in ("meta", "img"):
            self.open.append(tag)
            (self.cards[-1].texts if "article" in self.open else self.texts).setdefault(tag, []).append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open:
            return
        (self.cards[-1].texts if "article" in self.open else self.texts)[self.open[-1]][-1] += data
        if self.open[-1] == "td":
            self.cards[-1].rows[-1].append(data)


def browse(cli: Command, *arguments: object) -> tuple[Page, Any]:
    done = cli("data", "browse", *arguments, "--output", "out")
    assert done.status == 0, done.err
    assert len(done.out.splitlines()) == 1
    assert "out/index.html" in done.out
    assert "out/samples.png" in done.out
    return Page(Path("out/index.html")), done


def own_stream(shapes: Path, transforms: Transforms, seed: int, *keys: str) -> TrainingStream:
    data = read_coco(shapes / "annotations" / "train.json", shapes / "train")
    images = (require_masks(data) if "masks" in keys else data).images
    return TrainingStream(images, Transform(transforms), seed, target_keys=("boxes", "labels", *keys))


def test_samples_are_those_of_the_stream(cli: Command, workplace: Path, shapes: Path) -> None:
    """Their numbers, and their pixels where nothing is drawn on them; more samples than images are a second lap."""
    page, _ = browse(cli, "data.yaml", "--count", 10, "--seed", 3)
    stream = own_stream(shapes, Transforms(short=64, longest=64), 3, "masks")
    names = list(SHAPES)
    assert len(page.cards) == 10
    for position, card in enumerate(page.cards):
        pixels, target = stream[position]
        assert card.image_id == int(target["image_id"])
        assert card.file == f"{card.image_id - 1:06d}.png"
        expected = [names[label - 1] for label in target["labels"].tolist()]
        assert f"64 x 64 → 64 x 64 pixels, {len(expected)} object{'s' * (len(expected) > 1)}" in card.about
        assert sorted(card.labels) == target["labels"].unique().tolist()
        assert [row[0] for row in card.rows] == expected
        boxes = [[float(side) for side in row[1].split(", ")] for row in card.rows]
        torch.testing.assert_close(torch.tensor(boxes), target["boxes"], atol=0.051, rtol=0)

        plain, scale = enlarge(pixels)
        picture = card.picture
        assert picture.shape == plain.shape
        masks = F.interpolate(target["masks"].dense()[None].float(), size=plain.shape[1:], mode="bilinear")[0] > 0.99
        for mask, label in zip(masks, target["labels"].tolist(), strict=True):
            painted = (plain.float() + torch.tensor(colour(label))[:, None, None]) / 2
            assert (picture.float() - painted).abs().mean(dim=0)[mask].median() < 12
        free = torch.ones(plain.shape[1:], dtype=torch.bool)
        for x1, y1, x2, y2 in (target["boxes"] * scale).round().int().tolist():
            # A text may be wider than its box.
            free[max(0, y1 - 10) : y2 + 40, max(0, x1 - 10) : max(x2 + 10, x1 + 120)] = False
        assert (picture.float() - plain.float()).abs().mean(dim=0)[free].mean() < 8  # a JPEG's noise


def test_the_page_needs_nothing_and_runs_no_other_script(cli: Command, workplace: Path) -> None:
    page, _ = browse(cli, "data.yaml", "--count", 2)
    addresses = [value for _, name, value in page.attributes if name in ("src", "href", "srcset", "data", "action")]
    assert len(addresses) == 3
    assert all(address.startswith("data:") for address in addresses)
    (policy,) = [value for tag, name, value in page.attributes if tag == "meta" and "default-src" in value]
    (script,) = page.texts["script"]
    allowed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy == f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{allowed}'"
    assert "prefers-color-scheme: dark" in page.texts["style"][0]


def test_held_out_images_are_as_they_are_stored(cli: Command, workplace: Path, shapes: Path) -> None:
    """In the order of their file, and no more than there are; the training transforms leave them alone."""
    page, _ = browse(cli, "data.yaml", "--split", "val", "--set", "transforms.short=32")
    assert [card.file for card in page.cards] == [f"{i:06d}.png" for i in range(4)]
    document = json.loads((shapes / "annotations" / "val.json").read_text())
    for card in page.cards:
        boxes = [found["bbox"] for found in document["annotations"] if found["image_id"] == card.image_id]
        assert "64 x 64 → 64 x 64" in card.about
        corners = [[x, y, x + w, y + h] for x, y, w, h in boxes]
        assert [[float(side) for side in row[1].split(", ")] for row in card.rows] == corners


def test_a_run_s_own_data(cli: Command, workplace: Path, shapes: Path) -> None:
    """With its head, transforms and seed, which --set may change."""
    settings = ["transforms.preset=flips", "transforms.short=48", "engine.seed=9"]
    config = compose(None, {"head": "faster_rcnn", "data": "data.yaml"}, (), settings)
    (workplace / "runs" / "mine").mkdir(parents=True)
    (workplace / "runs" / "mine" / "config.yaml").write_text(config.to_yaml())
    for extra, seed in (([], 9), (["--set", "engine.seed=4"], 4), (["--seed", 4], 4)):
        page, _ = browse(cli, "runs/mine", "--count", 4, *extra)
        assert "faster_rcnn gets them in training, from the first on: preset=flips, short=48" in page.texts["p"][0]
        stream = own_stream(shapes, config.transforms, seed)
        for position, card in enumerate(page.cards):
            target = stream[position][1]
            assert card.image_id == int(target["image_id"])
            assert "64 x 64 → 48 x 48 pixels" in card.about
            boxes = torch.tensor([[float(side) for side in row[1].split(", ")] for row in card.rows])
            torch.testing.assert_close(boxes, target["boxes"], atol=0.051, rtol=0)
    refused = cli("data", "browse", "runs/mine", "--head", "mask_rcnn")
    assert refused.status == 2
    assert "--head mask_rcnn: runs/mine is a run, which has its head" in refused.err


SCRIPT = "<script>alert(1)</script>"
ODD = 'a" onerror="alert(1)\' <b> & ü.png'


@pytest.fixture
def odd_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Images with odd names, and categories with odder ones; the second image is cut short."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images" / "sub").mkdir(parents=True)
    names = [ODD, "sub/cut.png"]
    for name in names:
        Image.fromarray(np.full((30, 40, 3), 90, np.uint8)).save(tmp_path / "images" / name)
    content = (tmp_path / "images" / names[1]).read_bytes()
    (tmp_path / "images" / names[1]).write_bytes(content[: len(content) // 2])
    categories = [SCRIPT, "\n\ud800\0line", "x" * 3000]
    box = {"image_id": 0, "iscrowd": 0, "area": 100, "bbox": [5, 5, 10, 10]}
    document = {
        "images": [{"id": i, "file_name": name, "height": 30, "width": 40} for i, name in enumerate(names)],
        "categories": [{"id": i, "name": name} for i, name in enumerate(categories)],
        "annotations": [{**box, "id": i, "category_id": i} for i in range(3)],
    }
    (tmp_path / "instances.json").write_text(json.dumps(document))
    split = "{images: images, annotations: instances.json}"
    (tmp_path / "odd.yaml").write_text(f"data: {{root: ., train: {split}, val: {split}}}\ntransforms: {{short: 32}}\n")
    return tmp_path


def test_names_are_text_whatever_is_in_them(cli: Command, odd_set: Path) -> None:
    page, _ = browse(cli, "odd.yaml", "--split", "val")
    assert len(page.texts["script"]) == 1  # its own, whose hash the page allows
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    assert {value for tag, name, value in page.attributes if tag == "b"} == set()
    card = page.cards[0]
    assert card.file == ODD
    assert [row[0] for row in card.rows] == [SCRIPT, "\ufffd\ufffd\ufffdline", "x" * 3000]
    assert any(SCRIPT in text for text in page.texts["button"])
    assert "As faster_rcnn" in page.texts["p"][0]  # the set has no masks


def test_a_sample_that_cannot_be_read_is_a_card_too(cli: Command, odd_set: Path) -> None:
    page, done = browse(cli, "odd.yaml", "--split", "val")
    assert "2 samples, 1 of which cannot be read" in done.out
    assert page.cards[1].file == "sub/cut.png"
    assert page.cards[1].image_id == 1
    assert "cut short or damaged" in page.cards[1].texts["p"][1]
    assert "error" in [value for tag, name, value in page.attributes if (tag, name) == ("p", "class")]
    page, done = browse(cli, "odd.yaml", "--count", 3)
    assert sorted(card.source == "" for card in page.cards[:2]) == [False, True]


@pytest.mark.parametrize(("count", "columns"), [(1, 1), (5, 3), (9, 3)])
def test_the_grid(cli: Command, workplace: Path, count: int, columns: int) -> None:
    """Cells of 400 pixels with 8 between; none is empty, but those after the last."""
    browse(cli, "data.yaml", "--count", count)
    grid = cv2.imread("out/samples.png")
    assert grid.shape[1] == columns * 408 + 8
    rows = -(-count // columns)
    assert grid.shape[0] > rows * 400
    height = 400 + 2 * 21 + 8  # captions of 14 points have 21 pixels
    for i in range(rows * columns):
        row, column = divmod(i, columns)
        cell = grid[row * height : row * height + 400, column * 408 + 8 : column * 408 + 408]
        assert ((cell != 255).mean() > 0.5) == (i < count)


def test_classes_of_pixels(cli: Command, workplace: Path, shapes: Path) -> None:
    """By their shares, counted in the stream itself; the legend has the colours that are drawn."""
    settings = ["--set", "transforms.crop=[48,48]", "--set", "transforms.preset=seg"]
    page, _ = browse(cli, "data.yaml", "--head", "deeplabv3plus", "--count", 3, *settings)
    config = compose(None, {"head": "deeplabv3plus", "data": "data.yaml"}, (), settings[1::2])
    from vertebra.tools.sources import open_split

    data = open_split(config.data, "train", ("semantic",))
    stream = TrainingStream(data.images, Transform(config.transforms), 0, target_keys=("semantic",))
    names = [category.name for category in data.categories]
    for position, card in enumerate(page.cards):
        semantic = stream[position][1]["semantic"].numpy()
        values, pixels = np.unique(semantic[semantic != 255], return_counts=True)
        assert card.rows == [[names[v], f"{n / semantic.size:.1%}"] for v, n in zip(values, pixels, strict=True)]
        assert "→ 48 x 48 pixels" in card.about
    styles = " ".join(value for _, name, value in page.attributes if name == "style")
    assert all("#{:02x}{:02x}{:02x}".format(*colour(label)) in styles for card in page.cards for label in card.labels)


def test_class_folders(cli: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in (("cat", 0), ("dog", 200)):
        (tmp_path / "set" / "train" / name).mkdir(parents=True)
        Image.fromarray(np.full((50, 40, 3), value, np.uint8)).save(tmp_path / "set" / "train" / name / "1.png")
    page, _ = browse(cli, "imagefolder", "--data-root", "set", "--count", 4, "--set", "transforms.crop=[32,32]")
    assert {card.file for card in page.cards} == {"cat/1.png", "dog/1.png"}
    for card in page.cards:
        name = card.file.split("/")[0]
        assert card.texts["li"][0].strip() == name
        middle = card.picture[:, 180, 180].tolist()
        assert middle == pytest.approx([0 if name == "cat" else 200] * 3, abs=6)
        assert "40 x 50 → 32 x 32 pixels" in card.about
    assert [text.strip() for text in page.texts["button"][1:]] == ["cat (2)", "dog (2)"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["shapez"], "unknown data set 'shapez'. Did you mean 'shapes'?"),
        (["coco", "--data-root", "/nowhere"], "no data set at /nowhere"),
        (["data.yaml", "--split", "trian"], "unknown split 'trian'"),
        (["data.yaml", "--head", "mask_rcn"], "Did you mean 'mask_rcnn'?"),
        (["data.yaml", "--set", "transforms.preset=flip"], "unknown transforms.preset 'flip'"),
        (["data.yaml", "--split", "test"], "the data set has no split 'test'"),
    ],
)
def test_what_is_refused(cli: Command, workplace: Path, arguments: list[object], message: str) -> None:
    done = cli("data", "browse", *arguments)
    assert done.status == 2
    assert message in done.err
    assert len(done.err.splitlines()) == 1
    assert not (workplace / "samples").exists()
