"""Evaluation with COCO's metrics."""
