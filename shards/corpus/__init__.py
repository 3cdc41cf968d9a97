"""A directory of clips: listed, planned, cut, written as tars with an index, checked and read."""
