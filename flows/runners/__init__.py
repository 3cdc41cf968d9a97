"""How a node gets a process: listeners, schedulers, fork servers."""
