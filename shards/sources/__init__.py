"""The sources of a corpus: files of a folder, rows of a manifest, their paths and splits."""
