"""The training engine: one loop for every head; nothing here knows a head, a backbone or a data set."""
