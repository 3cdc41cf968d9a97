"""How a node is run, and in which process."""
