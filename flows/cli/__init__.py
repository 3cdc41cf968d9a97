"""The command `xdc`."""
