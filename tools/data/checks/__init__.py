"""What can be wrong with a data set: finding it, and mending the annotations."""
