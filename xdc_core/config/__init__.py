"""The configuration of a run: the sections of xdc.yaml, and how it is read, checked and written."""
