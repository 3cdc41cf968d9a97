"""The checks of `xdc doctor`."""
