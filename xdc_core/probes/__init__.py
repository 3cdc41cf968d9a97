"""The protocols of evaluation: linear probes, nearest neighbours, retrieval, fine-tuning."""
