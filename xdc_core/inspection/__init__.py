"""Inspection of runs: list them, compare two, verify all bytes."""
