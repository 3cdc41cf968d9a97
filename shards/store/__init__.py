"""Files and directories that are complete or absent: atomic writes, manifests, locks, and the stage contract."""
