"""Write the groups of pictures into the index of a corpus that an earlier version made. Nothing is encoded again."""

import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from shards.corpus.index import GROUPS, group_columns, index_name, index_path, read_stored_index, shard_names
from shards.corpus.reader import ClipReader
from shards.errors import ConfigError, StageError
from shards.media.decode import find_groups
from shards.objects.tars import TARS
from shards.progress import Progress, silent
from shards.store.build import Identity, Outcome, Record, build, record_of
from shards.store.commit import finish_commit
from shards.store.files import CARD, INDEX, link_or_copy, part_among
from shards.store.lock import exclusive
from shards.store.manifest import Manifest, fingerprint, missing_files, read_manifest
from shards.store.parquet import read_schema, write_parquet

LOOKED_FOR = {b"xdc.groups": b"looked for"}  # Of an index in which a clip without groups has none.


def index_groups(corpus: Path, progress: Progress = silent) -> Record:
    """Fill the columns GROUPS in the indices of a committed corpus, from its tars. All other files stay as they are.

    The corpus keeps its fingerprint, and what was made from it stays fresh. A killed call goes on with the next shard.
    Files that do not change are not read: their sha256 stay those that were noted when they were made.

    Raises:
        ConfigError: there is no such corpus, or its tars are in an object store.
        StageError: a file of the corpus is missing or damaged, or the corpus was replaced meanwhile.
    """
    manifest = read_manifest(corpus) or _finished(corpus)
    if manifest is None:
        raise ConfigError(f"{corpus} holds no finished corpus. Make it: xdc stage shard RUN")
    if (corpus / TARS).exists():
        raise ConfigError(f"{corpus}: its tars are in an object store. Index it where it was made, and copy it.")
    if lost := missing_files(corpus, manifest):
        raise StageError(
            f"{corpus}: {', '.join(lost[:3])} missing or cut off. Bring the files back from a copy, or make the corpus "
            "again: xdc stage shard RUN --force"
        )
    names = shard_names(corpus)
    lacking = [name for name in names if _lacks_groups(corpus, name)]
    if not lacking:
        return record_of(corpus, manifest, reused=True)

    def work(out: Path) -> Outcome:
        for path in out.glob("[0-9]*.parquet"):  # Of a call of an earlier version that was killed.
            path.unlink()
        with ClipReader(corpus) as reader:
            for done, name in enumerate(lacking, start=1):
                if not (out / index_name(name)).exists():
                    write_parquet(out / index_name(name), _with_groups(reader, name))
                progress(done, len(lacking), "shards indexed")
        if read_manifest(corpus) != manifest:
            raise StageError(f"{corpus} was replaced by another process meanwhile. Nothing is lost: run this again.")
        stored_as = {name: name for name in manifest.files}
        for name in names:  # The index of an earlier version lies beside the tar.
            old = stored_as.pop(str(part_among(manifest.files, name, INDEX)))
            if name not in lacking:
                stored_as[index_name(name)] = old
        for name, old in stored_as.items():
            if not (out / name).exists():
                link_or_copy(corpus / old, out / name)
        if (corpus / CARD).exists() and not (out / CARD).exists():
            shutil.copyfile(corpus / CARD, out / CARD)
        files = {name: manifest.files[old] for name, old in stored_as.items()}
        kept = {name: (entry.size, entry.sha256) for name, entry in files.items()}
        return Outcome(manifest.rows, manifest.rejects, manifest.summary, (*kept, *map(index_name, lacking)), kept)

    identity = Identity(
        manifest.stage, manifest.version, manifest.fingerprint, inputs=manifest.inputs, settings=manifest.settings
    )
    return build(corpus, identity, work, again=fingerprint(manifest.model_dump(mode="json")))


def _finished(corpus: Path) -> Manifest | None:
    """Finish an earlier call that was killed between its last renames."""
    if not corpus.parent.is_dir():
        return None
    with exclusive(corpus):
        return finish_commit(corpus)


def _lacks_groups(corpus: Path, shard: str) -> bool:
    """Return whether a picture has no groups in the index of a shard, and nobody has looked for them."""
    schema = read_schema(index_path(corpus, shard), "shard")
    if LOOKED_FOR.items() <= (schema.metadata or {}).items():
        return False
    if not {*GROUPS.names} <= {*schema.names}:
        return True
    table = read_stored_index(corpus, shard, ["mp4_size", "mp4_header"])
    return bool(table.filter(pc.greater(table["mp4_size"], 0))["mp4_header"].null_count)


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
    return table.replace_schema_metadata({**(table.schema.metadata or {}), **LOOKED_FOR})
