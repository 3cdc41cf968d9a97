"""What frozen features are good for: probes, neighbours and retrieval. Arrays in, scores out; knows no stage."""
