"""A run, its nodes and their directories."""
