"""k-means, the assignment to centroids, and the agreement of two partitions."""
