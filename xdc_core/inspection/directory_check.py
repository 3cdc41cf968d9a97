"""Check one committed directory of a run: its files, and its rows against the corpus's index."""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa

from shards.corpus.generation import Generation
from shards.corpus.index import index_path, read_index, shard_names
from shards.errors import MachineError, StageError
from shards.indexing.check import key_faults, tar_faults
from shards.indexing.columns import INDEX_FILE
from shards.indexing.generation_view import corpus_at
from shards.sources.coverage import Span, slack_s, uncovered
from shards.store.checked_read import rejected_keys
from shards.store.files import part_among, part_path
from shards.store.manifest import FileEntry, Manifest, fingerprint, list_files, read_manifest
from shards.store.parquet import read_column, read_parquet
from xdc_core.config.methods import TRUTH
from xdc_core.data.features import source_keys
from xdc_core.documents.cleaned import FILE_NAME as CLEANED
from xdc_core.documents.cleaned import read_cleaned
from xdc_core.runs.corpora import is_corpus
from xdc_core.runs.node import Node
from xdc_core.runs.run import Run
from xdc_core.stages.cluster import clustered_features

Fault = tuple[Path, str]  # A file or a directory, and its fault.


def file_faults(directory: Path, manifest: Manifest) -> Iterator[Fault]:
    """Yield files that are missing, damaged, or do not belong to the directory. Reads every byte."""
    stored = _stored(directory)
    mark = read_cleaned(directory)  # After the listing: it is written before the first file is removed.
    if mark is not None:
        stored.pop(CLEANED, None)
    for name, entry in manifest.files.items():
        if name not in stored:
            if mark is None or not mark.covers(name):
                yield directory / name, "the file is missing"
        elif stored[name].size != entry.size:
            yield directory / name, f"it has {stored[name].size} bytes instead of {entry.size}"
        elif stored[name].sha256 != entry.sha256:
            yield directory / name, "its sha256 differs from the manifest: bytes have changed"
    for name in sorted(stored.keys() - manifest.files.keys()):
        if name.startswith(f".{CLEANED}."):
            continue  # Left by a killed `xdc clean`; it is listed with other files of this kind.
        yield directory / name, "it is not among the files that were committed: move it elsewhere"


def _stored(directory: Path) -> dict[str, FileEntry]:
    while True:
        try:
            return list_files(directory)
        except FileNotFoundError:  # One was removed or renamed after the names had been read.
            continue


def manifest_faults(node: Node, directory: Path, manifest: Manifest) -> Iterator[Fault]:
    """Yield a fault if a manifest is of another node, or its fingerprint does not match its content."""
    lies = ("shard", None, None) if is_corpus(node) else (node.stage, node.modality, node.round)
    says = (manifest.stage, manifest.modality, manifest.round)
    if says != lies:
        yield directory, f"it is the directory of {Node(*says)}, but stored as {node}"
    own = [*says[:1], manifest.version, *says[1:], manifest.settings, manifest.inputs]
    if not is_corpus(node) and fingerprint(own) != manifest.fingerprint:
        yield directory, "the fingerprint in its manifest is not that of the settings and inputs in it"


def row_faults(run: Run, node: Node, manifest: Manifest, kept: Generation | None = None) -> Iterator[Fault]:
    """Yield faults of rows: missing, duplicate, unknown, or in another order; for clips also of the tars' members.

    kept: the generation of the corpus that the node has read, if the corpus was appended to since.

    Raises:
        StageError: the index with which rows are compared cannot be read.
    """
    directory = run.directory(node)
    if is_corpus(node):
        yield from _corpus_faults(directory, manifest)
    elif node.stage == "embed":
        yield from _shard_faults(run, node, manifest, run.directory(Node("data", node.modality)))
    elif node.stage in ("extract", "label") and kept is None:
        yield from _shard_faults(run, node, manifest, run.corpus)
    elif node.stage in ("extract", "label") and kept is not None:
        with TemporaryDirectory() as folder, corpus_at(run.corpus, kept.read_as, Path(folder)) as corpus:
            yield from _shard_faults(run, node, manifest, corpus)


def _shard_faults(run: Run, node: Node, manifest: Manifest, corpus: Path) -> Iterator[Fault]:
    directory = run.directory(node)
    rows = rejects = 0
    for shard in _indexed_shards(corpus):
        path = part_path(directory, shard)
        wanted = _wanted(run, node, corpus, shard)
        rejected = rejected_keys(directory, node.stage, shard)
        rejects += len(rejected)
        # Otherwise it is reported as a missing file.
        if not path.exists() and part_among(manifest.files, shard) is None:
            yield path, f"it was never committed: its {len(wanted)} clips are neither rows nor rejects"
            continue
        keys: list[str] = read_column(path, node.stage, "key").to_pylist()
        rows += len(keys)
        if node.stage == "embed":  # A row per view.
            keys = [key for place, key in enumerate(keys) if place == 0 or keys[place - 1] != key]
        for what in key_faults(keys, rejected, wanted, "rows"):
            yield path, what
    if rows != manifest.rows:
        yield directory, f"it has {rows} rows, but its manifest says {manifest.rows}"
    # Views, and clips without a label, do not all have an entry.
    if node.stage == "extract" and rejects != manifest.rejects:
        yield directory, f"it has {rejects} rejects, but its manifest says {manifest.rejects}"


def _indexed_shards(corpus: Path) -> list[str]:
    """Return the names of a corpus's shards. Raises StageError if the index of one is missing."""
    names, manifest = shard_names(corpus), read_manifest(corpus)
    if manifest is not None and len(names) < sum(bool(INDEX_FILE.fullmatch(name)) for name in manifest.files):
        raise StageError(f"{corpus}: the index of a shard is missing.")
    return names


def _wanted(run: Run, node: Node, corpus: Path, shard: str) -> list[str]:
    """Return the keys that a shard of the node should have, in order."""
    if node.stage != "label":
        keys: list[str] = read_index(corpus, shard, ["key"])["key"].to_pylist()
        return keys
    if node.modality == TRUTH:
        table = read_index(corpus, shard, ["key", run.config.truth])
        labelled: list[str] = table.filter(table[run.config.truth].is_valid())["key"].to_pylist()
        return labelled
    assert node.round is not None
    features = [run.directory(source) for source in clustered_features(run.config, node)]
    whole = [directory for directory in features if read_cleaned(directory) is None]
    if whole:
        listed: list[str] = source_keys(whole, shard)
    else:
        listed = read_index(corpus, shard, ["key"])["key"].to_pylist()
    # The files of rejects stay when features are removed.
    emptied = [directory for directory in features if directory not in whole]
    gone = {key for directory in emptied for key in rejected_keys(directory, "extract", shard)}
    return [key for key in listed if key not in gone]


def _corpus_faults(corpus: Path, manifest: Manifest) -> Iterator[Fault]:
    plan = read_parquet(corpus / "plan.parquet", "shard", ["key", "shard"])
    rejects = read_parquet(corpus / "rejects.parquet", "shard")
    planned: dict[int, list[str]] = defaultdict(list)
    for row in plan.to_pylist():
        planned[row["shard"]].append(row["key"])
    rows = 0
    for number, shard in enumerate(shard_names(corpus)):
        for what in tar_faults(corpus, shard):
            yield corpus / f"{shard}.tar", what
        keys: list[str] = read_index(corpus, shard, ["key"])["key"].to_pylist()
        rows += len(keys)
        for what in key_faults(keys, rejected_keys(corpus, "shard", shard), planned[number], "clips"):
            yield index_path(corpus, shard), what
    if (rows, len(rejects)) != (manifest.rows, manifest.rejects):
        expected = f"{manifest.rows} clips and {manifest.rejects} rejects"
        yield corpus, f"it has {rows} clips and {len(rejects)} rejects, but its manifest says {expected}"
    yield from _coverage_faults(corpus, rejects, float(manifest.settings["fps"]))


def _coverage_faults(corpus: Path, rejects: pa.Table, fps: float) -> Iterator[Fault]:
    """Yield seconds of sources that are in no clip and in no reject. Earlier versions did not store requested spans."""
    sources = read_parquet(corpus / "sources.parquet", "shard")
    if "asked_s" not in sources.column_names:
        return
    requested = [Span(row["path"], *span) for row in sources.to_pylist() for span in row["asked_s"]]
    rows = [row for row in rejects.to_pylist() if row["start_s"] is not None and row["end_s"] is not None]
    covered = [Span(row["source"], row["start_s"], row["end_s"]) for row in rows]
    for shard in shard_names(corpus):
        clips = read_index(corpus, shard, ["key", "source", "start_s", "duration_s"]).to_pylist()
        covered += [Span(row["source"], row["start_s"], row["start_s"] + row["duration_s"]) for row in clips]
    for span in uncovered(requested, covered, slack_s(fps)):
        what = f"{span.source} from {span.start_s:.2f} s to {span.end_s:.2f} s is in no clip and in no reject"
        yield corpus / "rejects.parquet", what


def comparable(faults: Iterator[Fault], directory: Path) -> Iterator[Fault]:
    """Yield the faults, as far as the rows' references can be read. Faults of these are reported elsewhere.

    Raises:
        MachineError: tars of the corpus are in an object store, and cannot be read now.
    """
    try:
        yield from faults
    except MachineError:
        raise
    except StageError as error:
        if str(directory) in str(error):
            yield directory, str(error)
