"""The clips on a round's page: their sources, clusters, pictures and sounds."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from shards.corpus.index import HASHED, label_columns, read_index, shard_names
from shards.corpus.reader import ClipReader
from shards.objects.cache import Cache
from shards.progress import Progress
from shards.store.files import part_path
from shards.store.parquet import read_parquet
from xdc_core.report.media import copy_media, write_media

SEARCHED = 20_000  # The page can search all clips of a corpus up to this size, and only example clips of a larger one.
MEDIA_COLUMNS = (
    "frames",
    "sample_rate",
    *(f"{member}_{what}" for member in HASHED for what in ("offset", "size", "sha256")),
)


def page_clips(corpus: Path, labels: Mapping[str, Path], shown: Collection[str], clips: int) -> dict[str, Any]:
    """Return the clips for the page's search: all clips, or only those that it shows if there are more than SEARCHED.

    labels: label source -> the directory of its pseudo-labels.

    Returns a dictionary. files: names of sources. rows: key -> [position in `files`, start in seconds, duration in
    seconds, first label or None, and the cluster in each label source, in order, or None]. all: whether these are all
    clips.
    """
    column = next(iter(label_columns(corpus)), None)
    everything = clips <= SEARCHED
    files: dict[str, int] = {}
    rows: dict[str, list[Any]] = {}
    for shard in shard_names(corpus):
        index = read_index(corpus, shard, ["key", "source", "start_s", "duration_s", *([column] if column else [])])
        clusters = []
        for directory in labels.values():
            table = read_parquet(part_path(directory, shard), "label", ["key", "cluster"])
            clusters.append(dict(zip(table["key"].to_pylist(), table["cluster"].to_pylist(), strict=True)))
        for row in index.to_pylist():
            if everything or row["key"] in shown:
                number = files.setdefault(row["source"], len(files))
                own = [cluster_of.get(row["key"]) for cluster_of in clusters]
                times = (round(row["start_s"], 2), round(row["duration_s"], 2))
                rows[row["key"]] = [number, *times, row[column] if column else None, *own]
    return {"files": list(files), "rows": rows, "all": everything}


def write_examples(
    corpus: Path,
    keys: Collection[str],
    folder: Path,
    before: Path,
    progress: Progress,
    cache: Cache | None = None,
) -> dict[str, str]:
    """Write media of the clips `keys` into `folder`. Media of an earlier report in `before` are copied.
    cache: of clips from object stores.

    Returns, by key, why a clip's pictures or sound cannot be shown.
    """
    folder.mkdir(exist_ok=True)  # Without parents, so that a removed partial directory is not made again.
    wanted = {key for key in keys if not (folder / f"{key}.webp").exists() and not copy_media(key, before, folder)}
    done, missing = len(keys) - len(wanted), {}
    with ClipReader(corpus, cache) as reader:
        for shard in shard_names(corpus):
            if not wanted:
                break
            for row in read_index(corpus, shard, ["key", *MEDIA_COLUMNS]).to_pylist():
                if row["key"] not in wanted:
                    continue
                wanted.remove(row["key"])
                if not (row["mp4_size"] or row["flac_size"]):
                    missing[row["key"]] = "the corpus has no media of it"
                elif reason := write_media(reader, shard, row, folder):
                    missing[row["key"]] = reason
                done += 1
                progress(done, len(keys), "example clips")
    return missing
