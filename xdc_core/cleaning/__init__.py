"""Disk space of a run: what takes it, and the removal of what no node needs any more."""
