"""The speed of a model beside other libraries': the same weights, images and targets, in one process, in turns."""

from .hardware import machine, threads

__all__ = ["machine", "threads"]
