"""The nodes of the graph, and the folders of their directories."""

from shards.store.node import Node as Node

# Stage -> the folder of its directories in a round, one per modality; or of its only one.
FOLDERS = {
    "extract": "features",
    "cluster": "clusters",
    "label": "labels",
    "teachers": "teachers",
    "train": "train",
    "embed": "embeddings",
    "eval": "evaluations",
    "maps": "maps",
    "search": "search",
    "stop": "stop",
    "report": "report",
}


SHARD = Node("shard")


def encoder_node(modality: str, number: int) -> Node:
    """Return the node of the encoder with which a round begins."""
    return Node("train", modality, number - 1) if number else Node("init", modality)
