"""Heads: whole models on any backbone, by name."""

from .models import create_model, head_row, list_heads, load_weights
from .records import ModelRecord, model_names, model_record

__all__ = [
    "ModelRecord",
    "create_model",
    "head_row",
    "list_heads",
    "load_weights",
    "model_names",
    "model_record",
]
