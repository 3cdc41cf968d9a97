"""Labelled data sets in their official layouts, with their official splits."""
