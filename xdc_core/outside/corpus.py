"""The corpus of features that somebody else computed: an index without tars."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from shards.corpus.index import HASHED, KEY, MEMBERS, NO_MEMBER, index_name, index_schema, shard_name
from shards.errors import ConfigError, StageError
from shards.progress import Progress, silent
from shards.reject import Kind, Reject
from shards.settings import CorpusSettings, stored_part
from shards.sources.rejects import REJECTS_SCHEMA, reject_columns
from shards.sources.split import check_learn_splits
from shards.store.build import Identity, Outcome, Record, build, record_of
from shards.store.manifest import fingerprint, read_manifest
from shards.store.parquet import write_parquet
from xdc_core.outside.given import SOURCES, VERSION, GivenFile, digests, given_files, given_fingerprint
from xdc_core.outside.tables import LABEL, NUMBERS, check_columns, read_described, read_feature_batches

GOOD, MISSING, NOT_FINITE, NO_TIME = 0, 1, 2, 3
MOST_FRAMES = np.iinfo(np.int32).max  # Of a clip, as the index has them.


def index_features(
    corpus: Path,
    features: Mapping[str, Path],
    settings: CorpusSettings,
    progress: Progress = silent,
    force: bool = False,
) -> Record:
    """Build the directory `corpus`: an index of the clips that have a good feature in every modality, and no tars.

    features: a folder of Parquet files by modality. The clips are in the order of the first modality's files, in shards
    of `settings.clips_per_shard`. A clip is described by the columns source (or path), start_s, duration_s, split and
    label... of the first modality whose files have them. Rows that are left out are in rejects.parquet: a key that is
    missing, that occurs a second time, has other characters than keys may have, or has no feature in another modality,
    a feature that is missing or not finite, and a time that is none. Keys and descriptions of all clips are in
    memory, features are not.

    Raises:
        ConfigError: a folder has no Parquet files, a file lacks a column or has one of a wrong type, the features of a
            modality have several widths, or no clip has one of the splits to learn from.
        StageError: more than `max_reject_share` of the clips were rejected, or the files changed meanwhile.
        Busy: another process is building it.
    """
    if any(not folder.exists() for folder in features.values()):
        manifest = read_manifest(corpus)
        if manifest is not None and manifest.settings == stored_part(settings):
            return record_of(corpus, manifest, reused=True)
    files = given_files(features)
    digest_of = digests(corpus, files)
    assert digest_of is not None
    identity = Identity(
        stage="shard",
        version=VERSION,
        fingerprint=given_fingerprint(digest_of, settings),
        settings=stored_part(settings),
    )

    def work(out: Path) -> Outcome:
        read = {
            name: _read(name, [file for file in files if file.modality == name], settings.fps, progress)
            for name in features
        }
        kept, rejects = _good(read)
        outcome = _write(out, read, kept, rejects, settings)
        if [file.state for file in given_files(features)] != [file.state for file in files]:
            raise StageError("the files of features changed while they were read. Nothing is lost: run this again.")
        columns = {"path": [file.state[0] for file in files], "sha256": [digest_of[file.state[0]] for file in files]}
        times = {"size": [file.size for file in files], "mtime_ns": [file.mtime_ns for file in files]}
        write_parquet(out / SOURCES, pa.table(columns | times))
        return outcome

    return build(corpus, identity, work, force)


class _Read:
    """The rows of one modality: keys and descriptions, what is wrong with each feature, and where each row lies."""

    def __init__(self, table: pa.Table, state: np.ndarray, width: int, names: list[str], ends: list[int]) -> None:
        self.table, self.state, self.width = table, state, width
        self._names, self._ends = names, ends
        self.keys: pa.Array = table["key"].combine_chunks()

    def place(self, row: int) -> tuple[str, int]:
        """Return the name of a row's file, and its number in that."""
        number = int(np.searchsorted(self._ends, row, side="right"))
        return self._names[number], row - (self._ends[number - 1] if number else 0)


def _read(modality: str, files: list[GivenFile], fps: float, progress: Progress) -> _Read:
    tables, states, ends = [], [], []
    width, rows = 0, 0
    checked = [check_columns(file.path) for file in files]
    for file, names in zip(files, checked, strict=True):
        tables.append(read_described(file.path, names))
        for there, features in read_feature_batches(file.path):
            if len(features) and width not in (0, features.shape[1]):
                raise ConfigError(
                    f"corpus.features.{modality}: the features of {file.path} have {features.shape[1]} numbers, those "
                    f"before them {width}. All must have the same number."
                )
            width = features.shape[1] if len(features) else width
            state = np.where(there, GOOD, MISSING).astype(np.int8)
            state[np.flatnonzero(there)[~np.isfinite(features).all(axis=1)]] = NOT_FINITE
            states.append(state)
            rows += len(state)
            progress(rows, rows, f"features of {modality} read")
        ends.append(rows)
    if not width:
        raise ConfigError(f"corpus.features.{modality}: {files[0].path.parent} has no feature with any number.")
    table = pa.concat_tables(tables, promote_options="default")
    state = np.concatenate(states)
    state[(state == GOOD) & ~_timed(table, fps)] = NO_TIME
    return _Read(table, state, width, [file.state[0] for file in files], ends)


def _timed(table: pa.Table, fps: float) -> np.ndarray:
    """Return, bool [rows], which rows have times that are finite, not negative, and of no more frames than fit."""
    good = np.ones(len(table), bool)
    for name in NUMBERS:
        if name in table.column_names:
            seconds = pc.fill_null(table[name], 0.0).to_numpy()
            good &= (seconds >= 0) & (seconds * fps <= MOST_FRAMES)  # False for NaN.
    return good


def _good(read: Mapping[str, _Read]) -> tuple[pa.Array, list[Reject]]:
    """Return the keys that have a good feature in every modality, in the order of the first, and all rejected rows."""
    rejects: list[Reject] = []
    good: dict[str, pa.Array] = {}
    for modality, rows in read.items():
        own = np.zeros(len(rows.keys), bool)
        named = pc.fill_null(pc.match_substring_regex(rows.keys, KEY), False).to_numpy(zero_copy_only=False)
        codes = pc.fill_null(rows.keys.dictionary_encode().indices, -1).to_numpy(zero_copy_only=False)
        own[np.unique(codes, return_index=True)[1]] = True  # The first row of each key.
        for row in np.flatnonzero(~named | ~own | (rows.state != GOOD)):
            rejects.append(_reject(rows, int(row), bool(named[row]), bool(own[row])))
        good[modality] = rows.keys.filter(pa.array(named & own & (rows.state == GOOD)))
    bad = {reject.key for reject in rejects if reject.kind != "duplicate"}
    for modality, keys in good.items():
        for other in (name for name in good if name != modality):
            for key in keys.filter(pc.invert(pc.is_in(keys, good[other]))).to_pylist():
                if key not in bad:  # Otherwise its own row has the reason.
                    bad.add(key)
                    rejects.append(Reject(modality, "features", "missing", f"no feature of {other} has this key", key))
    first, *others = good.values()
    for other in others:
        first = first.filter(pc.is_in(first, other))
    return first, rejects


def _reject(rows: _Read, row: int, named: bool, own: bool) -> Reject:
    name, number = rows.place(row)
    key = rows.keys[row].as_py()
    kind: Kind = "bad_row"
    if key is None:
        reason = "the key is null"
    elif not named:
        reason = "a key has 1 to 128 letters, digits, - and _. Other names belong into the column source"
    elif not own:
        kind, reason = "duplicate", "the key occurred before"
    elif rows.state[row] == MISSING:
        kind, reason = "missing", "the feature is null or empty"
    elif rows.state[row] == NO_TIME:
        reason = "start_s or duration_s is not a number of seconds from 0 on, or is too large"
    else:
        kind, reason = "damaged", "the feature has a number that is not finite in float32"
    return Reject(name, "features", kind, f"row {number}: {reason}", key or "")


def _write(
    out: Path, read: Mapping[str, _Read], kept: pa.Array, rejects: list[Reject], settings: CorpusSettings
) -> Outcome:
    first = f" The first: {rejects[0].source}, {rejects[0].reason}." if rejects else ""
    if not len(kept):
        every = "" if len(read) == 1 else f" No key has a good feature of {' and of '.join(read)}."
        raise StageError(f"{len(rejects)} rows were rejected, and no clip is left.{every}{first} Correct the files.")
    if len(rejects) > settings.max_reject_share * (len(rejects) + len(kept)):
        raise StageError(
            f"{len(rejects)} rows were rejected and {len(kept)} clips are good: more than the share allowed by "
            f"corpus.max_reject_share ({settings.max_reject_share:g}).{first} Correct the files, or raise it."
        )
    index = _index(kept, _described(read, kept), settings)
    check_learn_splits(settings.learn_splits, index["split"].unique().to_pylist(), "the files of features")
    size = settings.clips_per_shard
    shards = [shard_name(number) for number in range(-(-len(kept) // size))]
    for number, shard in enumerate(shards):
        write_parquet(out / index_name(shard), index.slice(number * size, size))
    plan = {"key": kept, "source": index["source"], "start_s": index["start_s"]}
    ends = pc.add(index["start_s"], index["duration_s"])
    places = pa.array(np.arange(len(kept), dtype=np.int32) // size)
    write_parquet(out / "plan.parquet", pa.table(plan | {"end_s": ends, "shard": places}))
    write_parquet(out / "rejects.parquet", reject_columns(rejects).cast(REJECTS_SCHEMA))
    summary = {
        "clips": len(kept),
        "sources": len(index["source"].unique()),
        "rejects": {"features": len(rejects)} if rejects else {},
        "kinds": dict(Counter(reject.kind for reject in rejects)),
        "hours": round(float(pc.sum(index["duration_s"]).as_py()) / 3600, 4),
        "bytes": 0,
        "widths": {modality: rows.width for modality, rows in read.items()},
        "accepted": fingerprint(kept.to_pylist()),
    }
    return Outcome(len(kept), len(rejects), summary, tuple(map(index_name, shards)))


def _described(read: Mapping[str, _Read], kept: pa.Array) -> dict[str, pa.Array]:
    """Return the columns that describe clips, in the order of `kept`, of the first modality whose files have them."""
    columns: dict[str, pa.Array] = {}
    for rows in read.values():
        places = pc.index_in(kept, rows.keys)
        for name in rows.table.column_names:
            if name != "key" and name not in columns:
                columns[name] = rows.table[name].combine_chunks().take(places)
    return columns


def _index(kept: pa.Array, described: Mapping[str, pa.Array], settings: CorpusSettings) -> pa.Table:
    """Return the index of all clips. Without a description, a clip is its own source and lasts 0 s."""
    labels = sorted(name for name in described if name.startswith(LABEL))
    sources = [described[name] for name in ("source", "path") if name in described]
    seconds = {
        name: pc.fill_null(described[name], 0.0) if name in described else pa.array(np.zeros(len(kept)))
        for name in NUMBERS
    }
    constants = {
        "fps": settings.fps,
        "width": 0,
        "height": 0,
        "sample_rate": 0,
        "samples": 0,
        "sha256": "",
        **{f"{member}_offset": NO_MEMBER for member in MEMBERS},
        **{f"{member}_size": 0 for member in MEMBERS},
        **{f"{member}_sha256": "" for member in HASHED},
    }
    columns: dict[str, pa.Array] = {
        "key": kept,
        "source": pc.coalesce(*sources, kept),
        **seconds,
        "frames": pa.array(np.rint(seconds["duration_s"].to_numpy() * settings.fps).astype(np.int32)),
        "split": pc.fill_null(described["split"], "") if "split" in described else pa.repeat("", len(kept)),
        **{name: described[name] for name in labels},
    }
    schema = index_schema(labels)
    for field in schema:
        if field.name in constants:
            columns[field.name] = pa.repeat(pa.scalar(constants[field.name], field.type), len(kept))
    arrays = [columns.get(field.name, pa.nulls(len(kept), field.type)).cast(field.type) for field in schema]
    return pa.Table.from_arrays(arrays, schema=schema)
