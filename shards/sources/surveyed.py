"""What a survey has found out about source files: as an object for one file, and as columns for many."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from shards.reject import Kind
from shards.settings import CorpusSettings
from shards.sources.columns import BATCH, batches


@dataclass(frozen=True, slots=True)
class Surveyed:
    """The survey of one source file, with the fields of `Probe`.

    If the file cannot be used, `reason` and `kind` say why, and all of the probe's fields except `last_packet_s` are
    empty.

    A file that could not be read has no sha256; `unreadable_at` is the first unreadable byte.
    """

    path: str
    size: int
    mtime_ns: int
    sha256: str
    duration_s: float = 0.0
    width: int = 0
    height: int = 0
    fps: float = 0.0
    video_codec: str = ""
    audio_codec: str = ""
    sample_rate: int = 0
    reason: str = ""
    unreadable_at: int = 0
    kind: Kind | None = None
    header_duration_s: float = 0.0
    sound_duration_s: float = 0.0
    last_packet_s: float = 0.0
    probe_version: int = 1
    boundaries_s: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if self.boundaries_s is not None:  # A list, if it was read from a file.
            object.__setattr__(self, "boundaries_s", tuple(self.boundaries_s))

    def serves(self, settings: CorpusSettings) -> bool:
        """Return whether the survey has all that these settings need."""
        return not settings.cut_at_shots or self.boundaries_s is not None or bool(self.reason)

    @property
    def reach_s(self) -> float:
        """Return the end of the last used packet, of picture and sound, in seconds."""
        return max(self.duration_s, self.sound_duration_s)


FIELDS = tuple(field.name for field in fields(Surveyed))
_TYPES = {
    **dict.fromkeys(("path", "sha256"), pa.large_string()),
    **dict.fromkeys(("video_codec", "audio_codec", "reason", "kind"), pa.dictionary(pa.int32(), pa.string())),
    **dict.fromkeys(("size", "mtime_ns", "unreadable_at"), pa.int64()),
    **dict.fromkeys(("width", "height", "sample_rate", "probe_version"), pa.int32()),
    "boundaries_s": pa.list_(pa.float64()),
}
_SCHEMA = pa.schema([(name, _TYPES.get(name, pa.float64())) for name in FIELDS])


@dataclass(frozen=True, eq=False)
class Survey:
    """The survey of files by path, as columns: some 250 bytes a file. `table`: FIELDS, in the order of the paths.

    Looking up a single file reads all paths; use `entries` for many.
    """

    table: pa.Table

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def __iter__(self) -> Iterator[str]:
        for batch in self.table.select(["path"]).to_batches(BATCH):
            yield from batch["path"].to_pylist()

    def __getitem__(self, path: str) -> Surveyed:
        number = pc.index(self.table["path"], pa.scalar(path, pa.large_string())).as_py()
        if number < 0:
            raise KeyError(path)
        return next(_surveyed(self.table.slice(number, 1)))

    def __contains__(self, path: object) -> bool:
        return isinstance(path, str) and pc.index(self.table["path"], pa.scalar(path, pa.large_string())).as_py() >= 0

    def files(self) -> Iterator[Surveyed]:
        """Yield the survey of every file, in order."""
        for batch in self.table.to_batches(BATCH):
            yield from _surveyed(batch)

    def numbers(self, paths: pa.Array | pa.ChunkedArray) -> np.ndarray:
        """Return the number of each path's row, int64. Raises KeyError for a file that is not in the survey."""
        found = pc.index_in(paths, value_set=self.table["path"])
        if found.null_count:
            raise KeyError(paths.filter(found.is_null())[0].as_py())
        return np.asarray(found.to_numpy(), np.int64)

    def entries(self, paths: pa.Array | pa.ChunkedArray) -> Iterator[Surveyed]:
        """Yield the survey of each of these files. Raises KeyError for one that is not in it."""
        return self._rows(self.numbers(paths))

    def states(self, paths: pa.Array | pa.ChunkedArray) -> Iterator[tuple[int, str]]:
        """Yield size and sha256 of each of these files. Raises KeyError for one that is not in the survey."""
        columns, numbers = self.table.select(["size", "sha256"]), self.numbers(paths)
        for first in range(0, len(numbers), BATCH):
            rows = columns.take(pa.array(numbers[first : first + BATCH]))
            yield from zip(rows["size"].to_pylist(), rows["sha256"].to_pylist(), strict=True)

    def select(self, paths: pa.Array | pa.ChunkedArray) -> "Survey":
        """Return the survey of these files only. Raises KeyError if one of them is not in it."""
        numbers = np.unique(self.numbers(paths))
        return self if len(numbers) == len(self) else Survey(self.table.take(pa.array(numbers)).combine_chunks())

    def _rows(self, numbers: np.ndarray) -> Iterator[Surveyed]:
        for first in range(0, len(numbers), BATCH):
            yield from _surveyed(self.table.take(pa.array(numbers[first : first + BATCH])))


def _surveyed(rows: pa.Table | pa.RecordBatch) -> Iterator[Surveyed]:
    for row in rows.to_pylist():
        yield Surveyed(**row)


def survey_columns(entries: Iterable[Surveyed]) -> Survey:
    """Return a survey as columns, ordered by path. Of several entries of one file the last counts.

    The entries may come from an iterator, and are not held.
    """
    tables = [_SCHEMA.empty_table()]
    for batch in batches(entries):
        columns = [pa.array([getattr(entry, field.name) for entry in batch], field.type) for field in _SCHEMA]
        tables.append(pa.Table.from_arrays(columns, schema=_SCHEMA))
    whole = pa.concat_tables(tables).unify_dictionaries()
    paths = whole["path"]
    numbers = pa.array(np.arange(len(whole)))
    order = pc.sort_indices(
        pa.table({"path": paths, "number": numbers}), sort_keys=[("path", "ascending"), ("number", "ascending")]
    ).to_numpy()
    if len(order) > 1:
        ordered = paths.take(pa.array(order))
        last = np.append(pc.not_equal(ordered[:-1], ordered[1:]).to_numpy(), True)
        order = order[last]
    return Survey(whole.take(pa.array(order)).combine_chunks())
