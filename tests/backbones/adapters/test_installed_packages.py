"""A backbone of 30 lines in somebody's own package, offered by an entry point, is there in every pipeline."""

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import vertebra

ROOT = Path(vertebra.__file__).parent

PIPELINES = {
    "torchvision": """
from torchvision.models.detection import FasterRCNN
from vertebra.backbones.adapters import torchvision as adapter

pyramid = adapter.pyramid("tinynet", out_channels=16)
model = FasterRCNN(pyramid, num_classes=3, min_size=64, max_size=64).eval()
assert set(model([image[0]])[0]) == {"boxes", "labels", "scores"}
assert list(pyramid(image)) == ["0", "1", "2", "3", "pool"]
""",
    "timm": """
import timm
import vertebra.backbones.adapters.timm

assert "vertebra_tinynet" in timm.list_models("vertebra_*")
maps = timm.create_model("vertebra_tinynet", features_only=True)(image)
assert [tuple(x.shape[1:]) for x in maps] == [(16, 16, 16), (32, 8, 8), (64, 4, 4), (96, 2, 2)]
assert timm.create_model("vertebra_tinynet", num_classes=7)(image).shape == (1, 7)
""",
    "segmentation_models_pytorch": """
import segmentation_models_pytorch as smp
import vertebra.backbones.adapters.smp

assert smp.Unet("vertebra-tinynet", encoder_weights=None, classes=5).eval()(image).shape == (1, 5, 64, 64)
""",
    "mmengine": """
from mmengine.registry import MODELS
import vertebra.backbones.adapters.mmdet

network = MODELS.build(dict(type="VertebraBackbone", name="tinynet", out_indices=(1, 3)))
assert [tuple(x.shape[1:]) for x in network(image)] == [(32, 8, 8), (96, 2, 2)]
""",
    "detectron2": """
import vertebra.backbones.adapters.detectron2
from detectron2.config import get_cfg
from detectron2.modeling import build_backbone

cfg = get_cfg()
cfg.MODEL.BACKBONE.NAME = "build_vertebra_fpn_backbone"
cfg.MODEL.VERTEBRA.NAME = "tinynet"
cfg.MODEL.RESNETS.NORM = "BN"
cfg.MODEL.FPN.IN_FEATURES = ["res2", "res3", "res4", "res5"]
assert list(build_backbone(cfg)(image)) == ["p2", "p3", "p4", "p5", "p6"]
""",
}


@pytest.fixture
def path_of_packages(tmp_path: Path) -> str:
    """What `pip install acme` leaves behind, with the README's network in it."""
    code = re.search(r"# my_backbone\.py.*?\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[1]
    assert len(code.splitlines()) <= 40
    (tmp_path / "acme.py").write_text(code.replace('@vertebra.register_backbone("tinynet")\n', ""))
    info = tmp_path / "acme-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[vertebra.backbones]\ntinynet = acme:tinynet\n")
    return os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_a_package_of_30_lines(pipeline: str, path_of_packages: str, tmp_path: Path) -> None:
    if find_spec(pipeline) is None:
        pytest.skip(f"{pipeline} is not installed")
    code = "import torch\nimage = torch.rand(1, 3, 64, 64)\n" + PIPELINES[pipeline]
    environment = {**os.environ, "PYTHONPATH": path_of_packages}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
