"""The command of one rank, which torchrun starts: `python -m xdc_core.training`."""

from collections.abc import Callable

from shards.store.stage import Task
from xdc_core.training.ranks import work_as_rank
from xdc_core.training.settings import Training


def train(task: Task[Training], arguments: list[str], send: Callable[[object], None]) -> None:
    """Train as one of several ranks; rank 0 sends the lines of metrics.jsonl."""
    from xdc_core.training.process_rank import rank_from_environment
    from xdc_core.training.rank import train_rank

    train_rank(task, rank_from_environment(), send)


if __name__ == "__main__":
    work_as_rank(train)
