"""Data sets between formats: a common form, and a reader and a writer of each format."""
