"""The first training samples as pictures."""

from pathlib import Path

import torch

from vertebra.tools.data.coco import read_coco
from vertebra.tools.data.stream import TrainingStream
from vertebra.tools.data.transforms import Transform, Transforms
from vertebra.tools.draw import colour
from vertebra.tools.sample_cards import training_samples


def test_the_first_samples_with_their_boxes(shapes: Path) -> None:
    """The sides of a box have the colour of its label; images are drawn large enough to be looked at."""
    data = read_coco(shapes / "annotations" / "train.json", shapes / "train")
    stream = TrainingStream(data.images, Transform(Transforms("flips", 64, 64)), seed=5)
    pictures = training_samples(stream, data.categories, 3)
    assert [name for name, _ in pictures] == ["training/0", "training/1", "training/2"]
    for position, (_, picture) in enumerate(pictures):
        pixels, target = stream[position]
        assert picture.dtype == torch.uint8
        assert picture.shape == (3, 360, 360 * pixels.shape[2] // pixels.shape[1])
        for label in target["labels"].tolist():
            assert (picture == torch.tensor(colour(label))[:, None, None]).all(dim=0).sum() > 50


def test_what_cannot_be_read_is_left_out(shapes: Path, tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    for path in (shapes / "train").iterdir():
        (tmp_path / "train" / path.name).write_bytes(path.read_bytes()[:200])
    data = read_coco(shapes / "annotations" / "train.json", tmp_path / "train")
    stream = TrainingStream(data.images, Transform(Transforms("flips", 64, 64)), seed=5)
    assert training_samples(stream, data.categories, 3) == []
