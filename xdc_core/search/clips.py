"""The clips of a corpus that a query names, or that are found: their rows, and where their sources lie."""

import difflib
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from shards.corpus.index import index_path, label_columns, read_index, shard_names
from shards.errors import ConfigError
from shards.settings import is_url
from shards.store.checked_read import read_rejects
from xdc_core.data.features import source_keys, source_part

COLUMNS = ("key", "source", "start_s", "duration_s", "split")
SHOWN = 5
ALIKE = 20_000  # Of so many keys the most similar ones are found in half a second.


@dataclass(frozen=True)
class Features:
    """The features of one modality of a corpus's clips.

    directory: of stage extract. sizes: number of features by shard, in the order of the vectors of an index.
    """

    corpus: Path
    directory: Path
    sizes: dict[str, int]

    def keys(self, rows: Sequence[int]) -> dict[int, tuple[str, str]]:
        """Return shard and key of some rows, by row; -1 is left out. Reads only the shards that have one."""
        ends = np.cumsum([*self.sizes.values()])
        shards, found = list(self.sizes), dict[int, tuple[str, str]]()
        wanted = np.unique([row for row in rows if row >= 0]).astype(np.int64)
        owners = np.searchsorted(ends, wanted, side="right")
        for number in np.unique(owners).tolist():
            shard = shards[number]
            keys, first = source_keys([self.directory], shard), int(ends[number]) - self.sizes[shard]
            found |= {row: (shard, keys[row - first]) for row in wanted[owners == number].tolist()}
        return found

    def all_keys(self) -> list[str]:
        """Return the keys of all rows, in their order."""
        return [key for shard in self.sizes for key in source_keys([self.directory], shard)]

    def row(self, key: str) -> int:
        """Return the row of a clip; -1 if it has no feature here."""
        first = 0
        for shard, rows in self.sizes.items():
            keys = source_keys([self.directory], shard)
            if key in keys:
                return first + keys.index(key)
            first += rows
        return -1

    def column(self, name: str) -> list[Any]:
        """Return a column of the corpus's index for all rows, in their order."""
        values: list[Any] = []
        for shard in self.sizes:
            table = read_index(self.corpus, shard, ["key", name])
            of = dict(zip(table["key"].to_pylist(), table[name].to_pylist(), strict=True))
            values += [of.get(key) for key in source_keys([self.directory], shard)]
        return values


def find_clip(corpus: Path, key: str) -> str | None:
    """Return the shard of a clip; None if the corpus does not have it."""
    for shard in shard_names(corpus):
        if key in read_index(corpus, shard, ["key"])["key"].to_pylist():
            return shard
    return None


def unknown_query(corpus: Path, query: str) -> ConfigError:
    """Return the error for a query that is neither a file nor a clip: with the clips of its source, or similar keys."""
    keys: list[str] = []
    clips: list[str] = []
    for shard in shard_names(corpus):
        table = read_index(corpus, shard, ["key", "source"])
        names = table["key"].to_pylist()
        keys += names
        of_source = zip(names, table["source"].to_pylist(), strict=True)
        clips += [name for name, source in of_source if query in (source, source.rsplit("/", 1)[-1])]
    text = f"{query} is neither a media file nor the key of one of the {len(keys)} clips of {corpus}."
    if clips:
        return ConfigError(f"{text} It is a source of the corpus; its clips are: {_some(sorted(clips))}.")
    if near := _alike(query, sorted(keys)):
        return ConfigError(f"{text} Similar keys: {_some(near)}.")
    where = {str(index_path(corpus, shard).parent / "*.parquet") for shard in shard_names(corpus)}
    return ConfigError(f"{text} Keys: {', '.join(sorted(where))}.")


def _alike(query: str, keys: list[str]) -> list[str]:
    place = bisect_left(keys, query)
    some = keys[max(0, place - ALIKE // 2) : place + ALIKE // 2]  # Those with the longest common beginning.
    return difflib.get_close_matches(query, some, SHOWN, 0.6)


def _some(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")


def feature_of(features: Path, shard: str, key: str, modality: str) -> np.ndarray:
    """Return the feature of a clip, float32 [1, width].

    Raises:
        ConfigError: it has none, because it did not decode; the text has the reason.
    """
    keys, (vectors,) = source_part([features], shard)
    places = np.flatnonzero(keys == key)
    if not len(places):
        rejects = read_rejects(features, "extract", shard)
        reason = next((entry["reason"] for entry in rejects if entry["key"] == key), "it has no such member")
        raise ConfigError(f"clip {key} has no feature of {modality} ({reason}). Search by another modality or clip.")
    return vectors[places[:1]]


def describe(corpus: Path, videos: Path | None, clips: Sequence[tuple[str, str]]) -> dict[str, dict[str, Any]]:
    """Return by key what the index says of clips: source, start_s, duration_s, split, labels, and path.

    clips: shard and key of each. path: of the source file, None if it is not there any more, or of a corpus without
    `videos`.
    """
    labels, found = label_columns(corpus), dict[str, dict[str, Any]]()
    folder = None if videos is None else videos if videos.is_dir() else videos.parent
    for shard in dict.fromkeys(shard for shard, _ in clips):
        wanted = {key for name, key in clips if name == shard}
        for row in read_index(corpus, shard, [*COLUMNS, *labels]).to_pylist():
            if row["key"] in wanted:
                own = {name: row.pop(name) for name in labels}
                found[row.pop("key")] = row | {"labels": own, "path": _path(folder, row["source"])}
    return found


def _path(folder: Path | None, source: str) -> str | None:
    if is_url(source):
        return source
    path = None if folder is None else folder / source
    return str(path) if path is not None and path.exists() else None
