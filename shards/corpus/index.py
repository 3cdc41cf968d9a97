"""The index of a corpus: a Parquet file per tar, with one row per clip, in the tar's order."""

from collections.abc import Mapping, Sequence
from dataclasses import astuple
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from shards.errors import StageError
from shards.sources.split import split_name
from shards.store.checked_read import read_stored_json
from shards.store.files import INDEX, part_name, part_path, parts_of, write_json
from shards.store.parquet import count_rows, read_parquet

if TYPE_CHECKING:
    from shards.media.decode import PictureGroups

MEMBERS = ("mp4", "flac", "json")
HASHED = ("mp4", "flac")  # Each has a sha256 in the index. The json only repeats the index row.
KEY = "^[A-Za-z0-9_-]{1,128}$"  # The form of `clip_key`. As a file's name it cannot lead out of a folder.
# What was measured of a clip while it was cut; null without the modality, or if an earlier version cut the clip.
MEASURES = pa.schema(
    [
        ("motion", pa.float32()),
        ("level_db", pa.float32()),
        ("shots", pa.int32()),
        ("boundaries_s", pa.list_(pa.float32())),
    ]
)
# The groups of pictures of the clip's mp4, as in PictureGroups (shards/media/decode.py): a view reads only those that
# it shows. Null without a picture, if an earlier version cut the clip, or if its groups do not decode one by one.
GROUPS = pa.schema(
    [
        ("mp4_header", pa.binary()),
        ("mp4_group_frame", pa.list_(pa.int32())),
        ("mp4_group_offset", pa.list_(pa.int64())),
        ("mp4_group_sha256", pa.list_(pa.binary())),
    ]
)
LATER = (*MEASURES, *GROUPS)  # The columns that corpora of earlier versions may lack.
NO_MEMBER = -1  # The offset of a member that a clip does not have; its size is 0.


def index_schema(label_names: Sequence[str]) -> pa.Schema:
    """Return the index's columns. Offsets and sizes are bytes in the tar.

    `sha256` is over the mp4 and then the flac and distinguishes clips. A reader of one member checks the sha256 of this
    member ("" if the clip lacks it).

    A clip without a picture has width and height 0, the corpus's fps, and the number of frames that fit into its sound;
    a clip without sound has sample_rate and samples 0.

    The last columns are MEASURES (shards/media/measures.py says what each is) and GROUPS. Earlier versions have none of
    them, or only MEASURES.
    """
    return pa.schema(
        [
            ("key", pa.string()),
            ("source", pa.string()),
            ("start_s", pa.float64()),
            ("duration_s", pa.float64()),
            ("fps", pa.float64()),
            ("frames", pa.int32()),
            ("width", pa.int32()),
            ("height", pa.int32()),
            ("sample_rate", pa.int32()),
            ("samples", pa.int64()),
            ("split", pa.string()),
            *((name, pa.string()) for name in label_names),
            *((f"{member}_{what}", pa.int64()) for member in MEMBERS for what in ("offset", "size")),
            *((f"{member}_sha256", pa.string()) for member in HASHED),
            ("sha256", pa.string()),
            *MEASURES,
            *GROUPS,
        ]
    )


def with_later_columns(table: pa.Table) -> pa.Table:
    """Return an index with all columns of LATER: those that it lacks are null."""
    for field in LATER:
        if field.name not in table.column_names:
            table = table.append_column(field, pa.nulls(len(table), field.type))
    return table


def group_columns(groups: "PictureGroups | None") -> dict[str, Any]:
    """Return a row's columns of GROUPS, in their order."""
    values = (None,) * len(GROUPS) if groups is None else astuple(groups)
    return dict(zip(GROUPS.names, values, strict=True))


def shard_name(number: int) -> str:
    """Return the name of a shard: six digits, as in WebDataset."""
    return f"{number:06d}"


def shard_names(corpus: Path) -> list[str]:
    """Return the names of a committed corpus's shards, in order."""
    return parts_of(corpus, INDEX)


def index_name(shard: str) -> str:
    """Return the name under which the index of a shard is written, relative to its corpus."""
    return part_name(shard, INDEX)


def index_path(corpus: Path, shard: str) -> Path:
    """Return the path of the index of a shard. Earlier versions wrote it beside the tar."""
    return part_path(corpus, shard, INDEX)


class Mask(NamedTuple):
    """What is known of a clip that is masked, or was: the bytes stay in the tar, and no stage reads them.

    since: generations of the corpus (0: the first), ascending, from which on the clip was masked, then not masked, and
    so on. end_s, sha256: its end in the source, and the content of the source of which it was cut.
    """

    since: tuple[int, ...]
    end_s: float
    sha256: str

    def holds(self, number: int | None = None) -> bool:
        """Return whether the clip is masked in a generation; None: in the last one."""
        return len(self.since if number is None else self.until(number).since) % 2 == 1

    def until(self, number: int) -> "Mask":
        """Return what was known in a generation."""
        return self._replace(since=tuple(begin for begin in self.since if begin <= number))


def masked_file(shard: str) -> str:
    """Return the name of the file with the masked clips of a shard: those of sources that were removed or changed."""
    return f"{shard}.masked.json"


def read_masks(corpus: Path, shard: str) -> dict[str, Mask]:
    """Return the clips of a shard, by key, that are or were masked; {} without such clips."""
    path = corpus / masked_file(shard)
    entries = read_stored_json(path, "shard") if path.exists() else {}
    return {key: Mask(tuple(entry["since"]), entry["end_s"], entry["sha256"]) for key, entry in entries.items()}


def write_masks(folder: Path, shard: str, masks: Mapping[str, Mask]) -> None:
    """Write the file of a shard's masked clips, if there are any."""
    if masks:
        write_json(folder / masked_file(shard), {key: masks[key]._asdict() for key in sorted(masks)})


def masked_keys(corpus: Path, shard: str) -> list[str]:
    """Return the keys of a shard's masked clips; [] without such clips."""
    return [key for key, mask in read_masks(corpus, shard).items() if mask.holds()]


def read_index(corpus: Path, shard: str, columns: list[str] | None = None) -> pa.Table:
    """Return the index of one shard, without masked clips.

    Raises:
        StageError: a file is missing or damaged, or has an invalid key (an index may come from someone else).
    """
    masked = masked_keys(corpus, shard)
    if not masked:
        return read_stored_index(corpus, shard, columns)
    table = read_stored_index(corpus, shard, None if columns is None else list(dict.fromkeys(["key", *columns])))
    table = table.filter(pc.invert(pc.is_in(table["key"], pa.array(masked, table["key"].type))))
    return table if columns is None else table.select(columns)


def count_clips(corpus: Path, shard: str) -> int:
    """Return the number of a shard's clips that are not masked. Raises StageError as `read_index` does."""
    if masked_keys(corpus, shard):
        return len(read_index(corpus, shard, ["key"]))
    return count_rows(index_path(corpus, shard), "shard")


def read_stored_index(corpus: Path, shard: str, columns: list[str] | None = None) -> pa.Table:
    """Return the index of one shard with all clips of its tar, masked or not. Raises StageError as `read_index`."""
    path = index_path(corpus, shard)
    table = read_parquet(path, "shard", columns)
    if "key" in table.column_names:
        _check_keys(path, table["key"])
    return table


def _check_keys(path: Path, keys: pa.ChunkedArray) -> None:
    """Raise StageError if a key cannot be used as a file's name."""
    if pa.types.is_string(keys.type):
        good = pc.fill_null(pc.match_substring_regex(keys, KEY), False)
        wrong = keys.filter(pc.invert(good))
    else:
        wrong = keys
    if len(wrong):
        raise StageError(
            f"{path}: the key {wrong[0].as_py()!r} is not one that xdc makes (letters, digits, - and _). Do not use "
            "this corpus, or rebuild it from its videos: xdc stage shard ... --force"
        )


def read_whole_index(corpus: Path, columns: list[str] | None = None) -> pa.Table:
    """Return the indices of all shards as one table, with a first column `shard` (name)."""
    parts = []
    for shard in shard_names(corpus):
        part = read_index(corpus, shard, columns)
        names = pa.array([shard] * len(part), pa.string())
        parts.append(part.add_column(0, pa.field("shard", pa.string()), names))
    return pa.concat_tables(parts)


def label_columns(corpus: Path) -> list[str]:
    """Return the names of the label columns of a corpus."""
    names = shard_names(corpus)
    if not names:
        return []
    return [name for name in read_index(corpus, names[0]).column_names if name.startswith("label")]


def in_splits(column: pa.ChunkedArray, splits: Sequence[str] | None) -> np.ndarray:
    """Return bool [rows]: whether the index's column `split` is among `splits`; None means all rows.

    Splits are compared without surrounding space and case (split_name).
    """
    if splits is None:
        return np.ones(len(column), bool)
    wanted = {split_name(split) for split in splits}
    spelt = [text for text in column.unique().to_pylist() if split_name(text) in wanted]
    chosen: np.ndarray = pc.is_in(column, pa.array(spelt, column.type)).to_numpy()
    return chosen
