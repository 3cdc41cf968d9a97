"""What is done with a run's clips by their features and clusters: duplicates, balanced subsets, and maps."""
