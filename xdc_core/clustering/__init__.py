"""Clustering algorithms, the preprocessing of features, and the agreement of two partitions."""
