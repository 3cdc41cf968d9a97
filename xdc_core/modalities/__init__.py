"""The modalities: for each its file in the tar, its settings, its views, and its display in reports."""
