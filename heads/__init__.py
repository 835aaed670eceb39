"""Heads: whole models on any backbone, by name."""

from .models import create_model, head_row, list_heads

__all__ = ["create_model", "head_row", "list_heads"]
