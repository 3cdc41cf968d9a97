"""The modalities: of each its file in the tar, its settings, its views, and how reports show it."""
