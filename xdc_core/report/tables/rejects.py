"""What did not make it into a corpus, by step and kind."""

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from shards.indexing.generation_view import place_of
from shards.store.manifest import read_manifest
from shards.store.parquet import read_parquet, read_schema

FILE_NAME = "rejects.parquet"


@dataclass(frozen=True)
class Rejects:
    """Inputs of one kind that were rejected at one step. kind: "" in a corpus of a version that stored none.
    source, reason: of one of them, for example.
    """

    step: str
    kind: str
    count: int
    source: str
    reason: str


def rejects_by_kind(corpus: Path) -> list[Rejects] | None:
    """Return the rejects of a corpus by step and kind, the most frequent first.

    Of a corpus that grows, stages read a view that has the index and tars only: then the rejects are those of the
    corpus itself. Returns None if it has grown since the view was made, or without rejects.parquet.

    Raises:
        StageError: rejects.parquet is damaged.
    """
    place = place_of(corpus)
    path = place / FILE_NAME
    if not path.exists() or (place != corpus and read_manifest(place) != read_manifest(corpus)):
        return None
    columns = [name for name in ("step", "kind", "source", "reason") if name in read_schema(path, "shard").names]
    table = read_parquet(path, "shard", columns)
    if "kind" not in columns:
        table = table.append_column("kind", pa.array([""] * len(table), pa.string()))
    counts: dict[tuple[str, str], int] = {}
    example: dict[tuple[str, str], tuple[str, str]] = {}
    for batch in table.to_batches():
        for row in batch.to_pylist():
            kind = (row["step"], row["kind"])
            counts[kind] = counts.get(kind, 0) + 1
            example[kind] = min(example.get(kind, (row["source"], row["reason"])), (row["source"], row["reason"]))
    ordered = sorted(counts, key=lambda kind: (-counts[kind], kind))
    return [Rejects(*kind, counts[kind], *example[kind]) for kind in ordered]
