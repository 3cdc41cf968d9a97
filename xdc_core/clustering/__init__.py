"""Clustering algorithms, what is done to features before, and the agreement of two partitions."""
