"""What is asked of an encoder: linear probes, neighbours, retrieval, fine-tuning."""
