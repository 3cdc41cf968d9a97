"""A work whose shards take some seconds each, for workers that are to be ended in the middle."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from shards.store.executor import Advance
from shards.store.files import write_text
from shards.store.receipt import Receipt, new_shard


def write_shards(arguments: dict[str, Any], shards: list[str], advance: Advance) -> Iterator[Receipt]:
    """Write a file per shard, each in `seconds`."""
    for shard in shards:
        with new_shard(Path(arguments["out"]), shard) as new:
            print(f"writing {shard}", flush=True)
            time.sleep(arguments["seconds"])
            write_text(new.folder / f"{shard}.txt", shard)
            new.rows = 1
        yield new.stored
