"""Weights of backbones to and from detectron2, mmdetection, timm and torchvision, each proved by equal features."""

from .conversion import Conversion, convert
from .pixels import Pixels, Told
from .reading import FRAMEWORKS, OURS, Reading, read_backbone

__all__ = ["FRAMEWORKS", "OURS", "Conversion", "Pixels", "Reading", "Told", "convert", "read_backbone"]
