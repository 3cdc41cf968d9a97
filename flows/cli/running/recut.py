"""`xdc recut`: only the shards of some sources are cut again."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

from flows.terminal import counter
from shards.command import command
from shards.corpus.recut import damaged_sources, recut
from shards.errors import ConfigError
from shards.progress import silent
from shards.store.manifest import read_manifest
from xdc_core.runs.corpora import stored_from
from xdc_core.runs.node import SHARD, Node
from xdc_core.runs.run import open_run


def recut_run(root: Path, sources: Sequence[str] | None, show: bool) -> list[dict[str, Any]]:
    """Cut sources of a run's corpus again; without names, the damaged ones of the corpus and of its data sets.

    Returns the records of the directories that were changed.

    Raises:
        ConfigError, StageError, Busy: see shards.corpus.recut.
    """
    run = open_run(root)
    nodes = [SHARD] if sources else [SHARD, *(Node("data", name) for name in run.config.datasets)]
    records = []
    for node in nodes:
        corpus, videos, settings = stored_from(run, node)
        if not corpus.exists():
            if node == SHARD:
                raise ConfigError(f"{corpus} is not there. Make it: {run.command(SHARD)}")
            continue
        names = sources or sorted(damaged_sources(corpus))
        if not names:
            continue
        before = read_manifest(corpus)
        with counter(f"recut {node}") if show else nullcontext(silent) as progress:
            record = recut(corpus, videos, settings, names, progress)
        records.append(asdict(record))
        if show:
            print(f"{corpus}: {', '.join(list(names)[:3])} cut again ({len(names)} sources), {record.rows} clips now.")
            same = before is not None and before.summary.get("accepted") == record.summary["accepted"]
            again = f"What was made of them is stale. Go on with: {command('xdc', 'run', root)}"
            print("The clips are the same as before." if same else again)
    if show and not records:
        print(f"{root}: no source is known to be damaged.")
    return records
