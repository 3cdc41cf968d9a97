"""Loading of clips, features and pseudo-labels."""
