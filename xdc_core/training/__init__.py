"""Training of one encoder in one round: it learns to predict the pseudo-labels of its label sources."""
