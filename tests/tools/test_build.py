"""From settings to a model."""

import pytest
import torch
from pycocotools import mask as coco_mask

from vertebra.tools.build import build_model
from vertebra.tools.config import compose


@pytest.mark.parametrize(
    ("head", "keys"), [("faster_rcnn", {"boxes", "labels"}), ("mask_rcnn", {"boxes", "labels", "masks"})]
)
def test_a_model_for_the_tools(head: str, keys: set[str]) -> None:
    """Its masks are RLE of the given image's size, one for each box, whatever size the model works at."""
    overrides = [
        "head.fpn_channels=16",
        "head.box_head_channels=16",
        "head.box_score_thresh=0",
        "head.test_size=[64,96]",
    ]
    if "masks" in keys:
        overrides += ["head.mask_convs=1", "head.mask_channels=8"]
    config = compose(None, {"head": head, "backbone": "resnet18"}, (), overrides)
    torch.manual_seed(0)
    model = build_model(config, 3).eval()
    assert set(model.target_keys) == keys
    with torch.inference_mode():
        (found,) = model([torch.rand(3, 40, 50)])
    assert set(found) == keys | {"scores"}
    if "masks" in keys:
        assert len(found["masks"]) == len(found["boxes"]) > 0
        assert all(coco_mask.decode(rle).shape == (40, 50) for rle in found["masks"])
