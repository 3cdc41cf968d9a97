"""`xdc index`: add the groups of pictures to the indices of a run's corpora."""

from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

from flows.terminal import counter
from shards.indexing.groups import index_groups
from shards.objects.tars import TARS
from shards.progress import silent
from shards.settings import is_url
from xdc_core.runs.corpora import stored_from
from xdc_core.runs.node import SHARD, Node
from xdc_core.runs.run import open_run


def index_run(root: Path, show: bool) -> list[dict[str, Any]]:
    """Index the groups of pictures of a run's corpus and of its data sets. Return the records of the directories.

    What lies in an object store is left out: its record has `path`, and `skipped` with the reason.

    Raises:
        ConfigError, StageError, Busy: see shards.indexing.groups.
    """
    run = open_run(root)
    records: list[dict[str, Any]] = []
    for node in (SHARD, *(Node("data", name) for name in run.config.datasets)):
        corpus = stored_from(run, node)[0]
        if node != SHARD and not corpus.exists():
            continue
        if (corpus / TARS).exists() or (node == SHARD and is_url(run.config.corpus.path)):
            why = "its tars are in an object store: index it where it was made, and copy its index and manifest.json"
            records.append({"path": str(corpus), "skipped": why})
            if show:
                print(f"{corpus} is left out: {why}.")
            continue
        with counter(f"index {node}") if show else nullcontext(silent) as progress:
            record = index_groups(corpus, progress)
        records.append(asdict(record))
        if show:
            done = "has the groups of pictures already" if record.reused else "has the groups of pictures now"
            print(f"{corpus}: the index {done}. What was made from it stays fresh.")
    return records
