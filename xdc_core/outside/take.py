"""The features of a run's clips, taken over from files that somebody else wrote."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from shards.corpus.index import read_index, shard_names
from shards.errors import ConfigError, StageError
from shards.progress import Progress
from shards.store.files import part_name
from shards.store.parquet import read_parquet
from shards.store.receipt import new_shard
from shards.store.units import begin_units
from xdc_core.data.features import write_features
from xdc_core.outside.given import SOURCES, digests, given_files
from xdc_core.outside.tables import read_described, read_feature_batches

SCRATCH = "features.raw"


def take_features(modality: str, folder: Path, corpus: Path, out: Path, progress: Progress) -> None:
    """Store the features of every clip of a corpus, shard by shard in the order of its index, with receipts.

    folder: Parquet files with the columns key and feature, those of which the corpus was made. Their rows may have any
    order: they are first copied into one file, float32 [clips, width], in the order of the index; it is removed at the
    end. Shards that are stored already are kept. Of a key that occurs twice the first row counts.

    Raises:
        ConfigError: the folder is gone.
        StageError: the files are not those of which the corpus was made.
    """
    keys = {shard: read_index(corpus, shard, ["key"])["key"].combine_chunks() for shard in shard_names(corpus)}
    stored = begin_units(out, keys)
    wanted = [shard for shard in keys if shard not in stored]
    if wanted:
        whole = pa.concat_arrays(list(keys.values()))
        features = _in_order(modality, folder, corpus, whole, out / SCRATCH, progress)
        first = 0
        for shard, own in keys.items():
            part = slice(first, first + len(own))
            first += len(own)
            if shard in wanted:
                with new_shard(out, shard) as new:
                    write_features(new.folder / part_name(shard), own.to_pylist(), features[part])
                    new.rows, new.notes = len(own), {"width": features.shape[1]}
        del features
    (out / SCRATCH).unlink(missing_ok=True)


def _in_order(
    modality: str, folder: Path, corpus: Path, keys: pa.Array, scratch: Path, progress: Progress
) -> np.ndarray:
    """Return the features of the clips `keys`, float32 [clips, width], mapped from the file `scratch`."""
    if not folder.exists():
        raise ConfigError(f"corpus.features.{modality}: {folder} does not exist. Bring it back, or correct the path.")
    files = given_files({modality: folder})
    known = read_parquet(corpus / SOURCES, "shard", ["path", "size", "sha256"]).to_pylist()
    own = [row for row in known if row["path"].startswith(f"{modality}/")]
    if {file.state[:2] for file in files} != {(row["path"], row["size"]) for row in own}:
        raise StageError(f"the files in {folder} are not those of which {corpus} was made. Run this again.")
    whole: np.ndarray | None = None
    seen = np.zeros(len(keys), bool)
    for file in files:
        places = pc.fill_null(pc.index_in(read_described(file.path, [])["key"], keys), -1).to_numpy()
        for begin, there, features in _numbered(file.path):
            rows = places[begin : begin + len(there)][there]
            chosen = np.flatnonzero(rows >= 0)
            chosen = chosen[~seen[rows[chosen]]]
            chosen = chosen[np.sort(np.unique(rows[chosen], return_index=True)[1])]  # The first row of each key.
            if not len(chosen):
                continue
            if whole is None:
                whole = _new_file(scratch, len(keys), features.shape[1])
            whole[rows[chosen]] = features[chosen]
            seen[rows[chosen]] = True
            progress(int(seen.sum()), len(keys), f"features of {modality}")
    if whole is None or not seen.all():
        raise StageError(
            f"{folder} has no feature of {len(keys) - int(seen.sum())} clips of {corpus}: its files have changed since "
            "the corpus was made. Run this again."
        )
    # Files that have the times that the corpus notes are not read again for this.
    if digests(corpus, given_files({modality: folder})) != {row["path"]: row["sha256"] for row in own}:
        raise StageError(f"the files in {folder} have changed since {corpus} was made of them. Run this again.")
    return whole


def _new_file(path: Path, rows: int, width: int) -> np.ndarray:
    with path.open("wb") as file:  # A full disk is an error here; a mapped page that has none would end the process.
        os.posix_fallocate(file.fileno(), 0, rows * width * np.dtype(np.float32).itemsize)
    return np.memmap(path, np.float32, "r+", shape=(rows, width))


def _numbered(path: Path) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Yield, some rows at a time, the number of the first, which rows have a feature, and these features."""
    first = 0
    for there, features in read_feature_batches(path):
        yield first, there, features
        first += len(there)
