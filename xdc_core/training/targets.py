"""The targets of one training round: a pseudo-label per clip and head, and the random order of clips.

The stage writes them once, into the folder `targets` of its partial directory, and the processes of the training map
them, so that none of them holds an entry per clip. The folder is not committed.
"""

import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from shards.errors import StageError
from shards.store.checked_read import rejected_keys, remedy_of
from shards.store.fault import fault_point
from shards.store.files import new_file, sha256_of, sync
from shards.store.manifest import MANIFEST, fingerprint
from shards.store.node import Node
from shards.store.parquet import read_parquet
from shards.store.stage import Task
from xdc_core.compute.seed import derive_seed
from xdc_core.data.labels import read_k
from xdc_core.data.rows import ClipRows, corpus_rows
from xdc_core.data.sampling import draw_clips
from xdc_core.documents.document import Document, read_document, write_document
from xdc_core.runs.node import SHARD
from xdc_core.training.settings import Training

FOLDER, CONTENTS, DRAWS = "targets", "targets.json", "draws.npy"
VERSION = 1  # Raised if the same inputs would give other files.


class Contents(Document):
    """targets.json, written last. mark: of all that the files depend on. classes: k by label source."""

    mark: str
    classes: dict[str, int]
    steps: int


@dataclass(frozen=True)
class TrainingTargets:
    """The clips and pseudo-labels of one training round, mapped from the disk.

    targets: by label source, int32 [rows of the index], -1 for clips without a pseudo-label. classes: k by label
    source. draws: row numbers, uint32 [steps * batch], in the order of training.
    """

    rows: ClipRows
    sources: tuple[str, ...]
    targets: dict[str, np.ndarray]
    classes: dict[str, int]
    draws: np.ndarray
    steps: int


def open_targets(task: Task[Training]) -> TrainingTargets:
    """Open the targets of a node of training. They are the same in every rank and after every restart.

    Raises:
        StageError: the stage has not written them (`write_targets`), or a file is damaged.
    """
    folder, sources = task.out / FOLDER, task.settings.sources
    contents = read_document(Contents, folder / CONTENTS, "train")
    rows = corpus_rows(task.directory(SHARD), task.settings.views.modality, task.root)
    targets = {source: _mapped(folder / f"{source}.npy") for source in sources}
    return TrainingTargets(rows, sources, targets, contents.classes, _mapped(folder / DRAWS), contents.steps)


def _mapped(path: Path) -> np.ndarray:
    try:
        return np.asarray(np.load(path, mmap_mode="r"))  # As a plain array: one element of it is read faster.
    except (FileNotFoundError, ValueError) as error:
        raise StageError(f"{path} cannot be read ({error}). {remedy_of(path, 'train')}") from error


def remove_targets(out: Path) -> None:
    """Remove the targets of a training that is complete."""
    if (out / FOLDER).exists():
        fault_point("before removal", FOLDER)
        (out / FOLDER / CONTENTS).unlink(missing_ok=True)  # First: the rest of a killed removal is not used.
        shutil.rmtree(out / FOLDER)


def write_targets(task: Task[Training]) -> None:
    """Write the targets of a node of training, unless an earlier call has written the same.

    The encoder learns from clips of `learn_splits` that the thresholds of `select` keep, that decode in this modality
    and have a pseudo-label from every source. With more than one label source (MDC) clips are drawn uniformly over the
    clusters of the first. Reads the pseudo-labels shard by shard; memory is about 20 bytes per clip, and 8 per draw.

    Raises:
        StageError: no clip decodes and has a pseudo-label from every source, or a pseudo-label is of no clip.
        ConfigError: no clip is in one of `learn_splits`, or a clip lacks a measure that a threshold needs.
    """
    settings, folder, mark = task.settings, task.out / FOLDER, _mark(task)
    with suppress(StageError):
        if read_document(Contents, folder / CONTENTS, "train").mark == mark:
            return
    remove_targets(task.out)
    folder.mkdir()
    sources = settings.sources
    labels = {source: task.directory(Node("label", source, task.round)) for source in sources}
    corpus = task.directory(SHARD)
    rows = corpus_rows(corpus, settings.views.modality, task.root)
    usable = _usable(task, rows, labels)
    if len(usable) == 0:
        raise StageError(
            f"{task.node}: no clip in corpus.learn_splits ({settings.learn_splits}) that `select` keeps decodes and "
            f"has a pseudo-label. Check the column split of {corpus}/*.parquet, and the section select."
        )
    seed = derive_seed(settings.seed, task.round, "train", task.about)
    if settings.train.shuffle_labels:
        for source in sources:
            target = _writable(folder, source)
            target[usable] = np.random.default_rng(derive_seed(seed, "shuffle", source)).permutation(target[usable])
    steps = max(1, settings.train.clips // settings.train.batch)
    clusters = _writable(folder, sources[0])[usable]
    drawn = draw_clips(clusters, steps * settings.train.batch, settings.train.uniform, seed)
    with new_file(folder / DRAWS) as temporary, temporary.open("wb") as file:
        np.save(file, usable[drawn])
    for source in sources:
        sync(folder / f"{source}.npy")
    classes = {source: read_k(directory) for source, directory in labels.items()}
    write_document(folder / CONTENTS, Contents(mark=mark, classes=classes, steps=steps))


def _mark(task: Task[Training]) -> str:
    """Return the fingerprint of all that the targets depend on: the settings, and the content of what is read."""
    read = [node for node in task.inputs if node == SHARD or node.stage in ("label", "extract")]
    contents = {str(node): sha256_of(task.directory(node) / MANIFEST) for node in read}
    return fingerprint([VERSION, task.about, task.round, task.settings.hashed(), contents])


def _writable(folder: Path, source: str) -> np.ndarray:
    return np.asarray(np.load(folder / f"{source}.npy", mmap_mode="r+"))


def _usable(task: Task[Training], rows: ClipRows, labels: dict[str, Path]) -> np.ndarray:
    """Write the pseudo-labels of every source, and return the numbers of the rows to learn from: uint32 [n]."""
    usable = rows.in_splits(task.settings.learn_splits) & rows.selected(task.settings.select, task.directory(SHARD))
    features = task.directory(Node("extract", task.about, task.round))
    targets = {
        source: np.lib.format.open_memmap(task.out / FOLDER / f"{source}.npy", "w+", np.int32, (len(rows),))
        for source in labels
    }
    for shard, span in rows.by_shard():
        keys = rows.keys[span].combine_chunks()
        for source, directory in labels.items():
            path = directory / f"{shard}.parquet"
            table = read_parquet(path, "label", ["key", "cluster"])
            target = np.full(len(keys), -1, np.int32)
            target[_positions(table["key"], keys, path, "label")] = table["cluster"].to_numpy()
            targets[source][span] = target
            usable[span] &= target >= 0
        # A clip with a pseudo-label from another modality may not decode in this one. Every other clip has a feature.
        rejected = pa.array(rejected_keys(features, "extract", shard), pa.string())
        usable[span.start + _positions(rejected, keys, features / f"{shard}.rejects.json", "extract")] = False
    for target in targets.values():
        target.flush()
    return np.flatnonzero(usable).astype(np.uint32 if len(rows) <= 2**32 else np.int64)


def _positions(wanted: pa.ChunkedArray | pa.Array, keys: pa.Array, path: Path, stage: str) -> np.ndarray:
    """Return the positions in `keys` of the clips that a file names, int [wanted]."""
    places = pc.index_in(wanted, value_set=keys)
    if places.null_count:
        lost = wanted.filter(pc.is_null(places))[0].as_py()
        raise StageError(f"{path}: the clip {lost} is not in the corpus's index. {remedy_of(path, stage)}")
    found: np.ndarray = places.to_numpy()
    return found
