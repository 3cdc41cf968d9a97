"""The graph of a run: its nodes, fingerprints and states."""
