"""The official layouts of data sets, one file each, and their registry."""
