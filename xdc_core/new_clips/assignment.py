"""The nearest frozen clusters of new clips: a committed directory of labels, as the label stage writes them."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from shards.errors import ConfigError
from shards.progress import Progress, silent
from shards.store.build import Identity, Outcome, Record, build
from shards.store.executor import IN_PROCESS, Advance, Job, run_units
from shards.store.manifest import fingerprint
from shards.store.parquet import write_parquet
from shards.store.receipt import Receipt, new_shard, receipts_of
from xdc_core.clustering.counts import no_counts
from xdc_core.compute.threads import limit_faiss
from xdc_core.config.schema import RunsOn
from xdc_core.data.features import read_features, shared_rows
from xdc_core.data.frozen_clusters import label_table, read_clusters
from xdc_core.data.label_scores import Labels, scores_of
from xdc_core.documents.kmeans import read_kmeans
from xdc_core.documents.scores import FILE_NAME, write_scores
from xdc_core.new_clips.outside_features import read_outside_features
from xdc_core.runs.task import unit_logs

STAGE, VERSION = "assign", 1
PER_UNIT = 64  # Files of a unit, as in the label stage.


@dataclass(frozen=True)
class Parts:
    """Features to assign, in files: one per shard and modality.

    files: shard -> the files of all modalities, in the order of the modalities. widths: of their features, as the
    clusters need them. inputs: what they are, by name, for the fingerprint. outside: whether somebody else wrote them.
    """

    modalities: tuple[str, ...]
    files: dict[str, tuple[Path, ...]]
    widths: tuple[int, ...]
    inputs: dict[str, str]
    outside: bool = False


def assign(
    target: Path,
    source: str,
    clusters: tuple[Path, str, int | None],
    parts: Parts,
    runs_on: RunsOn,
    progress: Progress = silent,
) -> Record:
    """Write the clusters of clips into the directory `target`, or reuse or continue it; it is committed like a stage's.

    For every shard of the features there is a Parquet file: key, cluster (int32) and distance (float32), of a second
    clustering cluster_1 and distance_1, and so on. scores.json has the sizes.

    clusters: the directory of a label source's clusters, its fingerprint, and its round.

    Raises:
        ConfigError: features have another width than the clusters need, or are not finite, or a file of somebody else
            is not one of features.
        StageError: a stored file is missing or damaged.
        Busy: another process is building it.
    """
    directory, digest, number = clusters
    inputs = {f"cluster.{source}": digest, **parts.inputs}
    identity = Identity(STAGE, VERSION, fingerprint([STAGE, VERSION, source, inputs]), source, number, inputs)

    def work(out: Path) -> Outcome:
        kmeans = read_kmeans(directory)
        arguments = {
            "out": str(out.resolve()),
            "clusters": str(directory.resolve()),
            "files": {shard: [str(path.resolve()) for path in paths] for shard, paths in parts.files.items()},
            "modalities": list(parts.modalities),
            "widths": list(parts.widths),
            "outside": parts.outside,
            "runs_on": runs_on.model_dump(mode="json"),
        }
        place, job = "xdc_core.new_clips.assignment:assign_shards", str(out.resolve())
        units = Job(f"{STAGE}.{source}", place, arguments, job, str(unit_logs(target.parent)), "faiss")
        run_units(
            IN_PROCESS, units, dict.fromkeys(parts.files, 1), PER_UNIT, progress, "shards assigned", with_rejects=False
        )
        counts, rows = [no_counts(kmeans.k, ()) for _ in range(kmeans.heads)], 0
        for receipt in receipts_of(out, parts.files):
            for own, notes in zip(counts, receipt.notes["clusterings"], strict=True):
                own.add(notes)
            rows += receipt.rows
        scores = scores_of(counts, compared=False, plans=[])
        write_scores(out, scores)
        summary = {name: getattr(scores, name) for name in ("k", "clips", "empty", "largest", "largest_share")}
        return Outcome(rows, 0, summary, (*(f"{shard}.parquet" for shard in parts.files), FILE_NAME))

    return build(target, identity, work)


def assign_shards(arguments: dict[str, Any], shards: list[str], advance: Advance) -> Iterator[Receipt]:
    """Store the clusters of some shards, and yield their receipts: the work of a unit."""
    clusters = read_clusters(Path(arguments["clusters"]))
    limit_faiss(RunsOn.model_validate(arguments["runs_on"]))
    read = read_outside_features if arguments["outside"] else read_features
    for shard in shards:
        paths = [Path(path) for path in arguments["files"][shard]]
        parts = [read(path) for path in paths]
        for path, part, name, width in zip(paths, parts, arguments["modalities"], arguments["widths"], strict=True):
            check_features(path, *part, name, width)
        keys, features = shared_rows(parts, f"shard {shard}", "Write them in the same order.")
        labels = Labels(pa.array(keys, pa.string()), clusters.assign(clusters.preprocess(features)))
        counts = [no_counts(clusters.k, ()) for _ in labels.clusterings]
        for own, assigned in zip(counts, labels.clusterings, strict=True):
            own.sizes += np.bincount(assigned.cluster, minlength=clusters.k)
        with new_shard(Path(arguments["out"]), shard) as new:
            write_parquet(new.folder / f"{shard}.parquet", label_table(labels))
            new.rows, new.notes = len(keys), {"clusterings": [own.notes() for own in counts]}
        yield new.stored


def check_features(path: Path, keys: np.ndarray, features: np.ndarray, modality: str, width: int) -> None:
    """Raise ConfigError if features, float32 [clips, width], have another width, or some are not finite numbers."""
    if features.shape[1] != width:
        raise ConfigError(
            f"{path}: the features are {features.shape[1]} wide, and the clusters are of {modality} features that are "
            f"{width} wide. Give features by the encoder of which the clusters were made."
        )
    good = np.isfinite(features).all(axis=1)
    if not good.all():
        first = keys[int(np.argmin(good))]
        raise ConfigError(
            f"{path}: the features of {int((~good).sum())} of {len(good)} clips have values that are not finite "
            f"numbers, the first of clip {first}. Compute them again, or remove these rows."
        )
