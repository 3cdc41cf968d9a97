"""Search: the nearest clips of a clip, by one modality or across modalities."""
