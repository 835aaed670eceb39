"""The command line, and what stands behind it: configuration, data, engine, evaluation."""
