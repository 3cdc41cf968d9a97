"""The stages of a run, one file each; `clips.py` has two."""
