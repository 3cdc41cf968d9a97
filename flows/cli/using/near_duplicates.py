"""The work of `xdc duplicates`: reads a round, writes the lists and the page."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from flows.cli.using.looked_at import LookedAt, look_at
from flows.cli.using.nodes import make_nodes
from flows.terminal import counter
from shards.corpus.index import read_whole_index
from shards.errors import ConfigError
from shards.store.files import write_json, write_text
from shards.store.parquet import write_parquet
from xdc_core.compute.threads import limit_faiss
from xdc_core.config.methods import JOINT
from xdc_core.curation.clips import clusters_of, index_rows, read_assigned
from xdc_core.curation.duplicates import CLIP_COLUMNS, find_duplicates, keep_list, pair_table, summary
from xdc_core.curation.neighbours import cluster_starts
from xdc_core.curation.points import Points, read_points
from xdc_core.new_clips.embedding import make_embedding_of_clips
from xdc_core.new_clips.encoders import encoders_of_run
from xdc_core.runs.node import Node

KEEP_LIST, PAIRS, SUMMARY = "keep.parquet", "pairs.parquet", "duplicates.json"


def duplicates_of(
    root: Path,
    modality: str | None,
    number: int | None,
    threshold: float | None,
    same_source: bool,
    html: Path | None,
    out: Path,
    views: int | None = None,
) -> dict[str, Any]:
    """Write keep.parquet, pairs.parquet and duplicates.json into `out`, and the page `html`. Return the summary.

    views: compare means over so many views of a clip, which are computed into a folder of `out` and kept there; None:
    the round's features.

    Raises:
        ConfigError: a wrong threshold, modality or round.
        StageError, Busy: what a stage raises whose features are missing.
    """
    if threshold is not None and not -1 < threshold <= 1:
        raise ConfigError(f"--threshold {threshold:g}: a similarity is above -1 and at most 1.")
    looked_at = look_at(root, number, modality)
    run = looked_at.run
    threads = limit_faiss(run.config.runs_on)
    out.mkdir(parents=True, exist_ok=True)
    features = looked_at.features if views is None else _features_of_views(looked_at, views, out)
    with counter("duplicates") as progress:
        points = read_points(run.corpus, features, out, progress)
        clips = index_rows(run.corpus, CLIP_COLUMNS, points.keys)
        centres = cluster_starts(points, _own_clusters(looked_at, points), run.config.seed, threads)
        found = find_duplicates(
            points,
            clips,
            centres,
            learn_splits=run.config.corpus.learn_splits,
            threshold=threshold,
            same_source=same_source,
            progress=progress,
        )
    compared = set(points.keys.tolist())
    others = [key for key in read_whole_index(run.corpus, ["key"])["key"].to_pylist() if key not in compared]
    about = looked_at.about() | {"threshold": found.threshold, "same_source": same_source}
    write_parquet(out / KEEP_LIST, keep_list(found, others, about))
    write_parquet(out / PAIRS, pair_table(found))
    result = {"run": str(root), "round": looked_at.round, "modalities": list(looked_at.modalities), **summary(found)}
    result |= {
        "views": run.config.extract.views if views is None else views,
        "not_compared": len(others),
        "keep": str(out / KEEP_LIST),
        "all_pairs": str(out / PAIRS),
    }
    write_json(out / SUMMARY, result)
    if html is not None:
        from xdc_core.curation.pairs_page import PAGE_COLUMNS, pairs_page

        rows = index_rows(run.corpus, PAGE_COLUMNS, points.keys)
        title = f"{run.root.resolve().name}: near-duplicates"
        write_text(html, pairs_page(found, rows, run.corpus, title, run.config.runs_on.clip_cache))
    return result


def _features_of_views(looked_at: LookedAt, views: int, out: Path) -> list[Path]:
    """Return the directories of features over so many views of the run's clips, made where they are missing."""
    encoders = encoders_of_run(looked_at.run, looked_at.round, looked_at.modalities)
    known = hashlib.sha256("".join(encoders.sha256.values()).encode()).hexdigest()[:8]
    made = make_embedding_of_clips(out / f"{views}-views-{known}", encoders, looked_at.run, views)
    nodes = [Node("extract", name, 0) for name in made.config.modalities]
    make_nodes(made, [*(Node("init", name) for name in made.config.modalities), *nodes])
    return [made.directory(node) for node in nodes]


def _own_clusters(looked_at: LookedAt, points: Points) -> np.ndarray | None:
    """Return the run's own clusters of the clips, if it has some: joint ones, or those of the first modality."""
    for source in (JOINT, *looked_at.modalities):
        if looked_at.has_labels(source):
            return clusters_of(read_assigned(looked_at.run.corpus, looked_at.labels(source)), points.keys)
    return None


def print_duplicates(found: dict[str, Any]) -> None:
    """Print how many clips repeat others, how that was decided, and which splits share clips."""
    seen = " and ".join(found["modalities"])
    if found["views"] > 1:
        seen += f" (means over {found['views']} views)"
    if found["not_compared"]:
        print(f"{found['not_compared']} clips have no feature of {seen} and were not compared")
    if found["threshold"] is None:
        print(f"{found['clips']} clips, compared by {seen} of round {found['round']}: no duplicates. {found['why']}.")
        print("To choose a threshold yourself: --threshold (look at the pairs with --html).")
        return
    print(
        f"{found['duplicates']} of {found['clips']} clips repeat one of {found['groups']} others, by {seen} of round "
        f"{found['round']}. Similarity of at least {found['threshold']:.4f} ({found['why']})."
    )
    least = "" if found["pairs_complete"] else "at least "
    for splits, count in found["leaks"].items():
        print(f"leak between the splits {splits}: {least}{count} pairs")
    if found["leaked"]:
        print(f"{found['leaked']} clips to learn from repeat a clip of a split that is not learnt from: left out")
    print(f"which to keep: {found['keep']}; {least}{found['pairs']} pairs: {found['all_pairs']}")
