"""The nodes of the graph, and the folders in which their directories lie."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Node:
    """One box of the graph: a stage, on a modality (or label source), in a round. Has a directory of its own."""

    stage: str
    modality: str | None = None
    round: int | None = None

    @property
    def name(self) -> str:
        """For people: `extract.video`, `shard`."""
        return f"{self.stage}.{self.modality}" if self.modality else self.stage

    def __str__(self) -> str:
        return self.name if self.round is None else f"{self.name} of round {self.round}"


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
