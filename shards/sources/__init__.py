"""What a corpus is made from: files of a folder, rows of a manifest, their paths and splits."""
