"""Bytes at rest: a video file -> clips -> WebDataset tars -> decoded samples. Knows no model and no Prefect."""
