"""`xdc index`: add the groups of pictures to the indices of a run's corpora."""

from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

from flows.terminal import counter
from shards.indexing.groups import index_groups
from shards.progress import silent
from xdc_core.runs.corpora import stored_from
from xdc_core.runs.node import SHARD, Node
from xdc_core.runs.run import open_run


def index_run(root: Path, show: bool) -> list[dict[str, Any]]:
    """Index the groups of pictures of a run's corpus and of its data sets. Return the records of the directories.

    Raises:
        ConfigError, StageError, Busy: see shards.indexing.groups.
    """
    run = open_run(root)
    records = []
    for node in (SHARD, *(Node("data", name) for name in run.config.datasets)):
        corpus = stored_from(run, node)[0]
        if node != SHARD and not corpus.exists():
            continue
        with counter(f"index {node}") if show else nullcontext(silent) as progress:
            record = index_groups(corpus, progress)
        records.append(asdict(record))
        if show:
            done = "has the groups of pictures already" if record.reused else "has the groups of pictures now"
            print(f"{corpus}: the index {done}. What was made from it stays fresh.")
    return records
