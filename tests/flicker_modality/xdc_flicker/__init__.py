"""A modality as a package of its own adds it: what moves, as differences of frames."""
