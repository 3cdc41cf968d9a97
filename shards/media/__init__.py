"""One media file: opened, probed, decoded, cut and encoded, in child processes with limits."""
