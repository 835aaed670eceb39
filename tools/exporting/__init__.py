"""Models as files that other programs run, and what such a file says of itself."""
