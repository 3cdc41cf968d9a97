"""A node of a graph of stages."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Node:
    """A node of the graph: a stage, on a modality (or label source), in a round. It has its own directory."""

    stage: str
    modality: str | None = None
    round: int | None = None

    @property
    def name(self) -> str:
        """Return the name in messages: `extract.video`, `shard`."""
        return f"{self.stage}.{self.modality}" if self.modality else self.stage

    def __str__(self) -> str:
        return self.name if self.round is None else f"{self.name} of round {self.round}"
