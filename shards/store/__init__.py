"""Files and directories that are whole or absent: atomic writes, manifests, locks, and the stage contract."""
