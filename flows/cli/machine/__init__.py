"""What `xdc doctor` finds on a machine."""
