"""Stored bytes: a video file -> clips -> WebDataset tars -> decoded samples. Without models and without Prefect."""
