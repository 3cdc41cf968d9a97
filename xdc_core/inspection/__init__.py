"""A look at finished runs: what there is, how two differ, whether all bytes are right."""
