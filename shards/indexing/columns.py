"""The index of a whole corpus as columns that are mapped into memory, so that no process holds its rows.

`.<corpus>.<mark>.columns/` beside a corpus has two files in Apache Arrow's IPC format: rows.arrow, one row per clip in
the order of the shards, and shards.arrow, one row per shard. It is a cache: it is written when it is first needed, from
the indices beside the tars, and written again if somebody deletes it. The mark is from the corpus's manifest: it is
another one if clips or indices are. A generation of a corpus that was appended to keeps its mark.
"""

import errno
import fcntl
import os
import platform
import re
import shutil
import time
import weakref
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from shards.corpus.generation import earlier_generations, read_as
from shards.corpus.index import GROUPS, LATER, index_path, index_schema, read_index, shard_names, with_later_columns
from shards.errors import Busy, StageError
from shards.indexing.generation_view import place_of
from shards.objects.cache import NAMED_BY
from shards.store.checked_read import remedy_of
from shards.store.commit import clear_left_overs, discard
from shards.store.fault import fault_point
from shards.store.files import INDEX, orphans, sync
from shards.store.lock import exclusive
from shards.store.manifest import MANIFEST, Manifest, fingerprint, read_manifest
from shards.store.parquet import read_schema

ROWS, SHARDS = "rows.arrow", "shards.arrow"
SUFFIX = ".columns"
INDEX_FILE = re.compile(rf"(?:{INDEX}/)?([0-9]+\.parquet)")  # Of a shard.
# Of the groups of pictures the columns have what distinguishes them, in half the bytes: offsets as uint32, of groups of
# the same length the first two frames, and of each sha256 the first bytes.
COMPACT = {
    "mp4_group_frame": pa.list_(pa.int32()),
    "mp4_group_offset": pa.list_(pa.uint32()),
    "mp4_group_sha256": pa.list_(pa.binary(NAMED_BY)),
}
# The labels are read from the index, where they are needed; nothing needs these by row number.
SCHEMA = pa.schema(
    [
        pa.field(field.name, COMPACT.get(field.name, field.type))
        for field in index_schema(())
        if field.name not in ("sha256", "boundaries_s")
    ]
)
KEPT = 2  # Columns of earlier generations that stay, those that were used last: several runs may read them in turn.
BATCH = 65_536  # Rows of a record batch: few enough to hold, enough that the batches of 65 M rows are opened in 0.1 s.
WAIT_S = 0.2  # From one look to the next whether another process has written the columns.
NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS)


class Columns(NamedTuple):
    """The mapped columns of a corpus.

    rows: columns of SCHEMA, one row per clip. shards: `name`, and `end`, the number of rows up to the shard's last.
    """

    rows: pa.Table
    shards: pa.Table


def columns_of(corpus: Path, elsewhere: Path) -> Path:
    """Return the directory with the columns of a committed corpus, for `open_columns`; write it if it is not there.

    It is beside the corpus, or in `elsewhere` if nothing can be written beside the corpus. Memory does not grow with
    the corpus. If another process is writing it, wait. Older columns of the corpus are removed when no process has them
    open.

    Raises:
        StageError: an index is missing or damaged, or its columns are not those of an index.
    """
    beside, other = column_directories(corpus, elsewhere)
    for place in (beside, other):
        if _is_whole(place):
            clear_left_overs(place)
            with suppress(OSError):  # Not writable.
                os.utime(place)  # Of several generations those stay that were used last.
            return place
    try:
        return _written(corpus, beside)
    except OSError as error:
        if error.errno not in NOT_WRITABLE:
            raise
    return _written(corpus, other)


def column_directories(corpus: Path, elsewhere: Path) -> tuple[Path, Path]:
    """Return the two paths at which the columns of a committed corpus may be.

    Those of a view of a corpus are where those of the corpus are.

    Raises:
        StageError: it has no valid manifest.
    """
    manifest = read_manifest(corpus)
    if manifest is None:
        raise StageError(f"{corpus} has no valid manifest.json. {remedy_of(corpus / MANIFEST, 'shard')}")
    mark, _ = next(_marks(manifest))
    return _directories(corpus, elsewhere, mark)


def directories_of_generations(corpus: Path, elsewhere: Path) -> Iterator[tuple[Path, str]]:
    """Yield the paths at which columns of a committed corpus may be, of the present generation and of earlier ones.

    With each comes the fingerprint as an input (`read_as`) of its generation. Nothing is yielded without a manifest.
    """
    if (manifest := read_manifest(corpus)) is not None:
        for mark, of in _marks(manifest):
            for place in _directories(corpus, elsewhere, mark):
                yield place, of


def _directories(corpus: Path, elsewhere: Path, mark: str) -> tuple[Path, Path]:
    name = f".{corpus.name}.{mark}{SUFFIX}"
    return place_of(corpus).with_name(name), elsewhere / name


def _marks(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """Yield the mark and the fingerprint as an input of each generation of a corpus, the present one first."""
    indices = sorted(
        (named[1], entry.sha256) for name, entry in manifest.files.items() if (named := INDEX_FILE.fullmatch(name))
    )
    states = [(each.read_as, each.shards) for each in reversed(earlier_generations(manifest))]
    for of, shards in [(read_as(manifest), len(indices)), *states]:
        yield fingerprint([of, indices[:shards]])[:12], of


def open_columns(directory: Path) -> Columns:
    """Map the columns in a directory. Reads the files' footers only, however many rows there are.

    Raises:
        StageError: a file is missing or cut; the directory may be deleted.
    """
    try:
        return Columns(*(pa.ipc.open_file(pa.memory_map(str(directory / name))).read_all() for name in (ROWS, SHARDS)))
    except (FileNotFoundError, pa.ArrowInvalid) as error:
        raise StageError(
            f"{directory} cannot be read ({error}). It is a copy of the corpus's index: delete it, and it is written "
            "again."
        ) from error


def hold_columns(directory: Path, owner: object) -> None:
    """Keep the columns from being removed by other processes of this machine, as long as `owner` exists.

    A process that is forked holds them, too. On a file system whose locks hold for all its machines, none removes them.
    """
    try:
        descriptor = os.open(directory / SHARDS, os.O_RDONLY)
    except FileNotFoundError:  # `open_columns` says so.
        return
    weakref.finalize(owner, os.close, descriptor)
    with suppress(OSError):  # Not all file systems have locks.
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)


def is_held(directory: Path) -> bool:
    """Return whether a process has the columns in a directory open."""
    try:
        with (directory / SHARDS).open("r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in (errno.EAGAIN, errno.EACCES)
    return False


def column_faults(corpus: Path, directory: Path) -> Iterator[str]:
    """Yield what differs between the columns in a directory and the corpus's index, one sentence per fault.

    Raises:
        StageError: an index cannot be read.
    """
    try:
        columns = open_columns(directory)
    except StageError as error:
        yield str(error)
        return
    names, start = shard_names(corpus), 0
    if columns.shards["name"].to_pylist() != names:
        yield "its shards are not those of the corpus"
        return
    for shard, end in zip(names, columns.shards["end"].to_pylist(), strict=True):
        rows = columns.rows.slice(start, end - start)
        if not rows.equals(_read_rows(corpus, shard, rows.column_names)):
            yield f"its rows of shard {shard} are not those of the index"
        start = end


def _is_whole(directory: Path) -> bool:
    """Return whether both files exist: a directory appears whole, but somebody may be deleting it."""
    return all((directory / name).exists() for name in (ROWS, SHARDS))


def _written(corpus: Path, place: Path) -> Path:
    """Write the columns at `place`, or wait until another process has written them. Return `place`."""
    while not _is_whole(place):
        try:
            with exclusive(place):
                if not _is_whole(place):
                    _write(corpus, place)
        except Busy:
            time.sleep(WAIT_S)
    return place


def _write(corpus: Path, place: Path) -> None:
    """Write the columns under another name, and rename them to `place`."""
    half_deleted = [] if _is_whole(place) else [place]  # Whole: of a process that locks do not exclude.
    for left_over in (*_outdated(corpus, place), *half_deleted):
        with suppress(FileNotFoundError):  # It does not exist, or another process has removed it.
            discard(left_over)
    for orphan in orphans(place):
        shutil.rmtree(orphan, ignore_errors=True)
    temporary = place.with_name(f".{place.name}.{os.getpid()}@{platform.node()}.tmp")
    temporary.mkdir()
    try:
        _write_files(corpus, temporary)
        for path in (temporary / ROWS, temporary / SHARDS, temporary):
            sync(path)
        fault_point("before rename", SUFFIX)
        try:
            os.rename(temporary, place)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise  # Else a process that locks do not exclude was faster, with the same content.
        fault_point("after rename", SUFFIX)
        sync(place.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _outdated(corpus: Path, place: Path) -> list[Path]:
    """Return other columns in the folder of `place` that are not needed: not those of the present generation, not the
    KEPT of earlier ones that were used last, and not those that a process reads. Nothing if the corpus is away.
    """
    names = dict.fromkeys(path.name for path, _ in directories_of_generations(place_of(corpus), place.parent))
    if not names:
        return []
    present, *earlier = names
    named = re.compile(re.escape(f".{corpus.name}.") + r"[0-9a-f]{12}" + re.escape(SUFFIX))
    found = [path for path in place.parent.iterdir() if named.fullmatch(path.name) and path != place]
    found = sorted((path for path in found if path.name != present), key=_used, reverse=True)
    kept = [path for path in found if path.name in earlier][:KEPT]
    return [path for path in found if path not in kept and not is_held(path)]


def _used(directory: Path) -> int:
    """Return when columns were used last, in ns; 0 if another process has just removed them."""
    with suppress(FileNotFoundError):
        return directory.stat().st_mtime_ns
    return 0


def _write_files(corpus: Path, folder: Path) -> None:
    """Write both files, shard by shard."""
    names = shard_names(corpus)
    if not names:
        raise StageError(f"{corpus} has no shards. {remedy_of(corpus / MANIFEST, 'shard')}")
    # A corpus of an earlier version has fewer; shards that were added to it later may have more.
    there = {name for shard in (names[0], names[-1]) for name in read_index(corpus, shard).column_names}
    schema = pa.schema([field for field in SCHEMA if field.name in there])
    ends, waiting, count, total = list[int](), list[pa.Table](), 0, 0
    with pa.OSFile(str(folder / ROWS), "wb") as file, pa.ipc.new_file(file, schema) as writer:
        for shard in names:
            waiting.append(_read_rows(corpus, shard, schema.names))
            count, total = count + len(waiting[-1]), total + len(waiting[-1])
            ends.append(total)
            if count >= BATCH or shard == names[-1]:
                writer.write_table(pa.concat_tables(waiting).combine_chunks())
                waiting, count = [], 0
    shards = pa.table({"name": pa.array(names, pa.string()), "end": pa.array(ends, pa.int64())})
    with pa.OSFile(str(folder / SHARDS), "wb") as file, pa.ipc.new_file(file, shards.schema) as writer:
        writer.write_table(shards)


def _read_rows(corpus: Path, shard: str, names: list[str]) -> pa.Table:
    """Read columns of one shard's index, with the types of SCHEMA. Those of LATER that it lacks are null."""
    there = read_schema(index_path(corpus, shard), "shard").names
    lacking = {field.name for field in LATER}.difference(there)
    table = read_index(corpus, shard, [name for name in names if name not in lacking])
    try:
        table = _with_compact_groups(with_later_columns(table))
        return table.select(names).cast(pa.schema([SCHEMA.field(name) for name in names]))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        path = index_path(corpus, shard)
        raise StageError(f"{path} is not an index ({error}). {remedy_of(path, 'shard')}") from error


def _with_compact_groups(table: pa.Table) -> pa.Table:
    """Return an index with the groups of pictures as in COMPACT; those of an MP4 of 4 GB or more are null."""
    large = pc.fill_null(pc.greater_equal(table["mp4_size"], 2**32), False)
    for name in GROUPS.names:
        column = table[name].combine_chunks()
        if pc.any(large).as_py():
            column = pa.array(
                [
                    None if is_large else value
                    for is_large, value in zip(large.to_pylist(), column.to_pylist(), strict=True)
                ],
                column.type,
            )
        if name == "mp4_group_frame":
            column = _first_two(column)
        if name == "mp4_group_sha256":
            short = pc.binary_slice(column.flatten(), 0, NAMED_BY)
            column = pa.ListArray.from_arrays(_offsets(pc.list_value_length(column)), short, mask=column.is_null())
        table = table.set_column(table.column_names.index(name), name, column)
    return table


def _first_two(frames: pa.ListArray) -> pa.ListArray:
    """Return the first frames of groups; of those with the same distances, the first two."""
    counts, values = pc.fill_null(pc.list_value_length(frames), 0).to_numpy(), frames.flatten().to_numpy()
    begins = np.cumsum(counts) - counts
    second = values[np.minimum(begins + 1, max(0, len(values) - 1))] if len(values) else counts
    places = np.arange(len(values)) - np.repeat(begins, counts)
    other = np.flatnonzero(values != places * np.repeat(second, counts))
    regular = counts > 2
    regular[np.searchsorted(np.cumsum(counts), other, side="right")] = False
    kept = (places < 2) | ~np.repeat(regular, counts)
    lengths = pa.array(np.where(regular, 2, counts))
    return pa.ListArray.from_arrays(_offsets(lengths), pa.array(values[kept]), mask=frames.is_null())


def _offsets(lengths: pa.Array) -> pa.Array:
    return pa.array(np.concatenate([[0], np.cumsum(pc.fill_null(lengths, 0).to_numpy())]), pa.int32())
