"""Data sets, transforms and the training stream."""
