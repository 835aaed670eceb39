"""Images of five channels with 16 bits, from files to trained models and pictures."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

import vertebra

Command = Callable[..., Any]


@pytest.fixture
def five(workplace: Path, shapes: Path) -> Path:
    """The generated set with its pictures as npy files of five 16-bit channels, and a data file for it."""
    folder = workplace / "five"
    for split in ("train", "val"):
        (folder / split).mkdir(parents=True)
        for path in (shapes / split).iterdir():
            pixels = cv2.imread(str(path)).astype(np.uint16) * 257
            np.save(folder / split / f"{path.stem}.npy", pixels[..., [2, 1, 0, 0, 2]])
        text = (shapes / "annotations" / f"{split}.json").read_text().replace(".png", ".npy")
        (folder / f"{split}.json").write_text(text)
    splits = "".join(f"  {split}: {{images: {split}, annotations: {split}.json}}\n" for split in ("train", "val"))
    transforms = "transforms: {preset: lsj, crop: [96, 96], scale: [0.5, 2.0]}\n"
    (workplace / "five.yaml").write_text(f"data:\n  root: {folder}\n  channels: 5\n{splits}{transforms}")
    return folder


def test_train_evaluate_predict(cli: Command, five: Path, arguments: list[object]) -> None:
    done = cli(*arguments, "--data", "five.yaml", "--output", "run", "--set", "schedule.epochs=1")
    assert done.status == 0, done.err
    assert len(list(Path("run/evaluation/pictures").iterdir())) == 2
    steps = [json.loads(line) for line in Path("run/log.jsonl").read_text().splitlines()]
    assert sum(step.get("dropped", 0) for step in steps) > 0  # large-scale jitter cuts objects off
    weights = torch.load("run/checkpoint.pt", weights_only=True)["model"]
    (stem,) = (value for key, value in weights.items() if key.endswith("stem.0.weight"))
    assert stem.shape[1] == 5
    done = cli("predict", "run", five / "val", "--output", "found")
    assert done.status == 0, done.err
    assert len(list(Path("found").glob("*.jpg"))) == 4
    pixels = np.load(five / "val" / "000000.npy")
    predictor = vertebra.Predictor("run")
    one, other = predictor(pixels), predictor(pixels.astype(np.float32) / 65535)
    assert torch.allclose(one["boxes"], other["boxes"], atol=1e-3)


def test_colours_are_for_rgb(cli: Command, five: Path, arguments: list[object]) -> None:
    done = cli(*arguments, "--data", "five.yaml", "--output", "run", "--set", "transforms.preset=strong")
    assert done.status == 2
    assert "an image has 5 channels of uint16, and changes of colours are for 8-bit RGB" in done.err


def test_a_wrong_number_of_channels(cli: Command, five: Path, arguments: list[object]) -> None:
    done = cli(*arguments, "--data", "five.yaml", "--output", "run", "--set", "data.channels=4")
    assert done.status == 2
    assert "is an array of (64, 64, 5); data.channels=4 were promised" in done.err
