"""The speed of a model beside other libraries': the same weights, images and targets, in one process, in turns."""

from ...backbones.processor import machine
from .hardware import threads

__all__ = ["machine", "threads"]
