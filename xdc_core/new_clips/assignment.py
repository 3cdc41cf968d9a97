"""The nearest frozen clusters of new clips: a committed directory of labels, as the label stage writes them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from shards.errors import ConfigError, StageError
from shards.progress import Progress, silent
from shards.store.build import Identity, Outcome, Record, build
from shards.store.executor import IN_PROCESS, Advance, Job, run_units
from shards.store.files import part_name
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
from xdc_core.new_clips.clusters import Clusters
from xdc_core.new_clips.parts import Parts
from xdc_core.runs.task import unit_logs

STAGE, VERSION = "assign", 1
PER_UNIT = 64  # Files of a unit, as in the label stage.


def assign(
    target: Path,
    clusters: Clusters,
    parts: Parts,
    runs_on: RunsOn,
    progress: Progress = silent,
) -> Record:
    """Write the clusters of clips into the directory `target`, or reuse or continue it; it is committed like a stage's.

    For every shard of the features there is a Parquet file in `data`: key, cluster (int32) and distance (float32), of
    a second clustering cluster_1 and distance_1, and so on. scores.json has the sizes. Clips without features of all
    modalities get no cluster, and are counted as rejects.

    Raises:
        ConfigError: features have another width than the clusters need, or are not finite.
        StageError: a stored file is missing or damaged, or no clip has all features.
        Busy: another process is building it.
    """
    source = clusters.source
    inputs = {f"cluster.{source}": clusters.fingerprint, **parts.inputs}
    identity = Identity(STAGE, VERSION, fingerprint([STAGE, VERSION, source, inputs]), source, clusters.round, inputs)

    def work(out: Path) -> Outcome:
        kmeans = read_kmeans(clusters.directory)
        arguments = {
            "out": str(out.resolve()),
            "clusters": str(clusters.directory.resolve()),
            "files": {shard: [str(path.resolve()) for path in paths] for shard, paths in parts.files.items()},
            "modalities": list(clusters.modalities),
            "widths": list(clusters.widths),
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
        if not rows:
            raise StageError(
                f"{out}: none of the {parts.clips} clips has features of {' and '.join(clusters.modalities)}, so none "
                "gets a cluster. Give clips that have all of these."
            )
        scores = scores_of(counts, compared=False, plans=[])
        write_scores(out, scores)
        summary = {name: getattr(scores, name) for name in ("k", "clips", "empty", "largest", "largest_share")}
        return Outcome(rows, max(0, parts.clips - rows), summary, (*map(part_name, parts.files), FILE_NAME))

    return build(target, identity, work)


def assign_shards(arguments: dict[str, Any], shards: list[str], advance: Advance) -> Iterator[Receipt]:
    """Store the clusters of some shards, and yield their receipts: the work of a unit."""
    clusters = read_clusters(Path(arguments["clusters"]))
    limit_faiss(RunsOn.model_validate(arguments["runs_on"]))
    for shard in shards:
        paths = [Path(path) for path in arguments["files"][shard]]
        parts = [read_features(path) for path in paths]
        for path, part, name, width in zip(paths, parts, arguments["modalities"], arguments["widths"], strict=True):
            check_features(path, *part, name, width)
        keys, features = shared_rows(parts, f"shard {shard}", "Compute them again with --force.")
        labels = Labels(pa.array(keys, pa.string()), clusters.assign(clusters.preprocess(features)))
        counts = [no_counts(clusters.k, ()) for _ in labels.clusterings]
        for own, assigned in zip(counts, labels.clusterings, strict=True):
            own.sizes += np.bincount(assigned.cluster, minlength=clusters.k)
        with new_shard(Path(arguments["out"]), shard) as new:
            write_parquet(new.folder / part_name(shard), label_table(labels))
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
