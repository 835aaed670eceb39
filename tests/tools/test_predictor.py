"""What a prediction holds, and what is left of it above a score."""

import torch

from vertebra.tools.predictor import above


def test_above_keeps_everything_of_a_detection_together() -> None:
    found = {
        "boxes": torch.arange(12.0).reshape(3, 4),
        "labels": torch.tensor([1, 2, 3]),
        "scores": torch.tensor([0.9, 0.5, 0.4]),
        "masks": ["first", "second", "third"],
        "names": ["a", "b", "c"],
    }
    kept = above(found, 0.5)
    assert kept["boxes"].tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert kept["labels"].tolist() == [1, 2]
    assert kept["masks"] == ["first", "second"]
    assert kept["names"] == ["a", "b"]
    nothing = above(found, 0.95)
    assert nothing["boxes"].shape == (0, 4)
    assert nothing["masks"] == nothing["names"] == []
