"""The nodes of the graph, and the folders in which their directories lie."""

from shards.store.node import Node as Node

# Stage -> the folder of a round in which its directories lie, one a modality.
FOLDERS = {
    "extract": "features",
    "cluster": "clusters",
    "label": "labels",
    "train": "train",
    "embed": "embeddings",
    "eval": "evaluations",
}


SHARD = Node("shard")


def encoder_node(modality: str, number: int) -> Node:
    """The node that made the encoder with which a round begins."""
    return Node("train", modality, number - 1) if number else Node("init", modality)
