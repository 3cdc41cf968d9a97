"""Features and clusters of clips that a run has not seen."""
