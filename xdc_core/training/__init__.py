"""A training round of one encoder: it learns to predict the pseudo-labels of its label sources."""
