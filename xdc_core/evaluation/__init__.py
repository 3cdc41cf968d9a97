"""What encoders are worth: probes, fine-tuning, retrieval, clusters."""
