"""A node of a graph of stages."""

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
