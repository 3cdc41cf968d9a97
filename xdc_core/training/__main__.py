"""One rank, as torchrun's agent starts it: `python -m xdc_core.training RUN MODALITY ROUND OUT`."""

from collections.abc import Callable
from pathlib import Path

from xdc_core.runs.node import Node
from xdc_core.runs.run import Run
from xdc_core.training.ranks import work_as_rank


def train(run: Run, arguments: list[str], send: Callable[[object], None]) -> None:
    """Train as one of several ranks; rank 0 sends the lines of metrics.jsonl."""
    from xdc_core.training.process_rank import rank_from_environment
    from xdc_core.training.rank import train_rank

    modality, number, out = arguments
    train_rank(run, Node("train", modality, int(number)), Path(out), rank_from_environment(), send)


if __name__ == "__main__":
    work_as_rank(train)
