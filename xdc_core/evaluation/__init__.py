"""Labelled recordings, their division into training and test, and the metrics of predictions."""
