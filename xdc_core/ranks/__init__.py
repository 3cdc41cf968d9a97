"""Several processes that work on one training, on one machine or on several."""
