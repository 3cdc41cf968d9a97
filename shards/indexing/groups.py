"""Write the groups of pictures into the index of a corpus that an earlier version made. Nothing is encoded again."""

from pathlib import Path

import pyarrow as pa

from shards.corpus.index import GROUPS, group_columns, read_stored_index, shard_names
from shards.corpus.reader import ClipReader
from shards.errors import ConfigError, StageError
from shards.media.decode import find_groups
from shards.objects.tars import TARS
from shards.progress import Progress, silent
from shards.store.build import Identity, Outcome, Record, build, record_of
from shards.store.files import link_or_copy
from shards.store.manifest import read_manifest
from shards.store.parquet import read_schema, write_parquet


def index_groups(corpus: Path, progress: Progress = silent) -> Record:
    """Add the columns GROUPS to the indices of a committed corpus, from its tars. All other files stay as they are.

    The corpus keeps its fingerprint, and what was made from it stays fresh. A killed call goes on with the next shard.

    Raises:
        ConfigError: there is no such corpus, or its tars are in an object store.
        StageError: a tar or an index is missing or damaged, or the corpus was replaced meanwhile.
    """
    manifest = read_manifest(corpus)
    if manifest is None:
        raise ConfigError(f"{corpus} holds no finished corpus. Make it: xdc stage shard RUN")
    if (corpus / TARS).exists():
        raise ConfigError(f"{corpus}: its tars are in an object store. Index it where it was made, and copy it.")
    names = shard_names(corpus)
    if all({*GROUPS.names} <= {*read_schema(corpus / f"{name}.parquet", "shard").names} for name in names):
        return record_of(corpus, manifest, reused=True)

    def work(out: Path) -> Outcome:
        with ClipReader(corpus) as reader:
            for done, name in enumerate(names, start=1):
                if not (out / f"{name}.parquet").exists():
                    write_parquet(out / f"{name}.parquet", _with_groups(reader, name))
                progress(done, len(names), "shards indexed")
        if read_manifest(corpus) != manifest:
            raise StageError(f"{corpus} was replaced by another process meanwhile. Nothing is lost: run this again.")
        for name in manifest.files:
            if not (out / name).exists():
                link_or_copy(corpus / name, out / name)
        return Outcome(manifest.rows, manifest.rejects, manifest.summary, tuple(manifest.files))

    identity = Identity(
        manifest.stage, manifest.version, manifest.fingerprint, inputs=manifest.inputs, settings=manifest.settings
    )
    return build(corpus, identity, work, force=True)


def _with_groups(reader: ClipReader, shard: str) -> pa.Table:
    table = read_stored_index(reader.corpus, shard)
    table = table.drop_columns([name for name in GROUPS.names if name in table.column_names])
    rows = [
        group_columns(find_groups(reader.read(shard, row, "mp4")) if row["mp4_size"] else None)
        for row in table.select([name for name in table.column_names if name.startswith(("key", "mp4"))]).to_pylist()
    ]
    added = pa.Table.from_pylist(rows, GROUPS)
    for field in GROUPS:
        table = table.append_column(field, added[field.name])
    return table
