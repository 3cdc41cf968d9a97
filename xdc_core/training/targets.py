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
from shards.store.files import new_file, part_path, sha256_of, sync
from shards.store.manifest import MANIFEST, fingerprint
from shards.store.node import Node
from shards.store.parquet import read_parquet
from shards.store.stage import Task
from xdc_core.compute.seed import derive_seed
from xdc_core.data.labels import head_name, label_column, read_classes
from xdc_core.data.rows import ClipRows, corpus_rows
from xdc_core.data.sampling import draw_clips
from xdc_core.documents.document import Document, read_document, write_document
from xdc_core.documents.teachers import read_teachers
from xdc_core.runs.node import SHARD
from xdc_core.training.settings import Training

FOLDER, CONTENTS, DRAWS = "targets", "targets.json", "draws.npy"
VERSION = 1  # Raised if the same inputs would give other files.


class Contents(Document):
    """targets.json, written last. mark: of all that the files depend on. heads: names of heads by label source.
    classes: k by head.
    """

    mark: str
    heads: dict[str, list[str]]
    classes: dict[str, int]
    steps: int


@dataclass(frozen=True)
class TrainingTargets:
    """The clips and pseudo-labels of one training round, mapped from the disk.

    heads: names by label source, one for each of its clusterings; the first has the name of the source. targets: by
    head, int32 [rows of the index], -1 for clips without a pseudo-label. classes: k by head. draws: row numbers,
    uint32 [steps * batch], in the order of training.
    """

    rows: ClipRows
    heads: dict[str, list[str]]
    targets: dict[str, np.ndarray]
    classes: dict[str, int]
    draws: np.ndarray
    steps: int


def open_targets(task: Task[Training]) -> TrainingTargets:
    """Open the targets of a node of training. They are the same in every rank and after every restart.

    Raises:
        StageError: the stage has not written them (`write_targets`), or a file is damaged.
    """
    folder = task.out / FOLDER
    contents = read_document(Contents, folder / CONTENTS, "train")
    rows = corpus_rows(task.directory(SHARD), task.settings.views.modality, task.root)
    targets = {name: _mapped(folder / f"{name}.npy") for name in contents.classes}
    return TrainingTargets(rows, contents.heads, targets, contents.classes, _mapped(folder / DRAWS), contents.steps)


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
    and have a pseudo-label from every source. With more than one label source (MDC) or clustering (`cluster.heads`)
    clips are drawn uniformly over the clusters of the first. Reads the pseudo-labels shard by shard;
    memory is about 20 bytes per clip, and 8 per draw.

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
    sources = learned_sources(task)
    labels = {source: task.directory(Node("label", source, task.round)) for source in sources}
    corpus = task.directory(SHARD)
    rows = corpus_rows(corpus, settings.views.modality, task.root)
    found = {source: read_classes(directory) for source, directory in labels.items()}
    heads = {source: [head_name(source, head) for head in range(len(ks))] for source, ks in found.items()}
    usable = _usable(task, rows, labels, heads)
    if len(usable) == 0:
        raise StageError(
            f"{task.node}: no clip in corpus.learn_splits ({settings.learn_splits}) that `select` keeps decodes and "
            f"has a pseudo-label. Check the column split of the index of {corpus}, and the section select."
        )
    seed = derive_seed(settings.seed, task.round, "train", task.about)
    if settings.train.shuffle_labels:
        for source in sources:
            for name in heads[source]:  # The same permutation: a clip gets all labels of another clip.
                target = _writable(folder, name)
                target[usable] = np.random.default_rng(derive_seed(seed, "shuffle", source)).permutation(target[usable])
    steps = max(1, settings.train.clips // settings.train.batch)
    clusters = _writable(folder, sources[0])[usable]
    drawn = draw_clips(clusters, steps * settings.train.batch, settings.train.uniform, seed)
    with new_file(folder / DRAWS) as temporary, temporary.open("wb") as file:
        np.save(file, usable[drawn])
    classes = {name: k for source in sources for name, k in zip(heads[source], found[source], strict=True)}
    for name in classes:
        sync(folder / f"{name}.npy")
    write_document(folder / CONTENTS, Contents(mark=mark, heads=heads, classes=classes, steps=steps))


def learned_sources(task: Task[Training]) -> tuple[str, ...]:
    """Return the label sources of the encoder in this round: the method's, or with `train.protect` those of
    teachers.json.

    Raises:
        StageError: teachers.json is missing or damaged.
    """
    if not task.settings.train.protect:
        return task.settings.sources
    return read_teachers(task.directory(Node("teachers", None, task.round))).learns[task.about]


def _mark(task: Task[Training]) -> str:
    """Return the fingerprint of all that the targets depend on: the settings, and the content of what is read."""
    read = [node for node in task.inputs if node == SHARD or node.stage in ("label", "extract", "teachers")]
    contents = {str(node): sha256_of(task.directory(node) / MANIFEST) for node in read}
    return fingerprint([VERSION, task.about, task.round, task.settings.hashed(), contents])


def _writable(folder: Path, name: str) -> np.ndarray:
    return np.asarray(np.load(folder / f"{name}.npy", mmap_mode="r+"))


def _usable(task: Task[Training], rows: ClipRows, labels: dict[str, Path], heads: dict[str, list[str]]) -> np.ndarray:
    """Write the pseudo-labels of every head, and return the numbers of the rows to learn from: uint32 [n]."""
    usable = rows.in_splits(task.settings.learn_splits) & rows.selected(task.settings.select, task.directory(SHARD))
    features = task.directory(Node("extract", task.about, task.round))
    targets = {
        name: np.lib.format.open_memmap(task.out / FOLDER / f"{name}.npy", "w+", np.int32, (len(rows),))
        for names in heads.values()
        for name in names
    }
    for shard, span in rows.by_shard():
        keys = rows.keys[span].combine_chunks()
        for source, directory in labels.items():
            path = part_path(directory, shard)
            columns = [label_column("cluster", head) for head in range(len(heads[source]))]
            table = read_parquet(path, "label", ["key", *columns])
            places = _positions(table["key"], keys, path, "label")
            for name, column in zip(heads[source], columns, strict=True):
                target = np.full(len(keys), -1, np.int32)
                target[places] = table[column].to_numpy()
                targets[name][span] = target
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
