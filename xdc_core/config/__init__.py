"""What a user sets: the sections of xdc.yaml, how it is read, explained and written."""
