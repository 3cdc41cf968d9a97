"""How a node gets done, and in which process."""
