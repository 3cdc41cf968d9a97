"""Files with which other tools read a corpus."""
