"""The work of `xdc curate`: reads a round, applies the rules in order, writes the manifest."""

import csv
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from flows.cli.using.looked_at import LookedAt, look_at
from shards.corpus.index import in_splits, index_path, label_columns, read_whole_index, shard_names
from shards.corpus.listing import open_sources
from shards.errors import ConfigError
from shards.settings import is_url
from shards.store.files import new_file
from shards.store.manifest import read_manifest
from shards.store.parquet import read_schema
from xdc_core.compute.seed import derive_seed
from xdc_core.config.methods import JOINT, TRUTH
from xdc_core.curation.clips import clusters_of, distances_of, read_assigned, read_keep_list
from xdc_core.curation.expression import Condition
from xdc_core.curation.subset import Choice, Selection, agreeing, balanced, manifest_rows
from xdc_core.data.selection import THRESHOLDS, kept, measure_columns
from xdc_core.runs.node import Node
from xdc_core.runs.run import Run

COLUMNS = ("key", "source", "start_s", "duration_s", "split")  # And labels, and what rules need.


@dataclass(frozen=True)
class Rules:
    """Which clips are kept: see `xdc curate --help`."""

    per_cluster: int | None
    by: str | None
    orders: list[str]
    agree: bool
    where: str | None
    keep: Path | None
    seed: int | None
    learn_only: bool


def write_subset(root: Path, number: int | None, rules: Rules, to: Path) -> dict[str, Any]:
    """Write the manifest `to`. Return what each rule left out.

    Rules apply to the clips of the splits that the run learns from; others are kept as they are, or left out
    (`learn_only`).

    Raises:
        ConfigError: a rule does not fit the run, the run does not know where its videos are, or no clip is left.
        StageError, Busy: what a stage raises whose features or clusters are missing.
    """
    if to.suffix.lower() != ".csv":
        raise ConfigError(f"--to {to}: a manifest ends in .csv.")
    if len(rules.orders) > 1 or (rules.orders and rules.per_cluster is None):
        raise ConfigError(f"--{' --'.join(rules.orders)}: give one of them, together with --per-cluster.")
    order: Choice = next((each for each in get_args(Choice) if each in rules.orders), "nearest")
    condition = Condition(rules.where) if rules.where else None
    looked_at = look_at(root, number)
    run = looked_at.run
    by, needed = _label_sources(looked_at, rules)
    videos = _videos(run)
    looked_at.make("label", needed)
    clips = _read_clips(run, condition)
    clips = clips.take(pc.sort_indices(clips, [("key", "ascending")])).combine_chunks()
    keys = np.array(clips["key"].to_pylist())
    learnt = in_splits(clips["split"], run.config.corpus.learn_splits)
    selection = Selection(learnt.copy(), {})
    for name, mask in kept(clips, run.config.select, run.corpus).items():
        selection.keep(f"select.{name} of the run ({THRESHOLDS[name].what})", mask)
    if rules.keep is not None:
        listed = read_keep_list(rules.keep, keys[selection.chosen], keys)
        _check_keep_list(rules.keep, listed.about, run)
        seen = " and ".join(listed.about.get("modalities", run.config.modalities))
        selection.keep(f"--keep {rules.keep}: no feature of {seen}, so not compared", listed.compared)
        selection.keep(f"--keep {rules.keep}: near-duplicates", listed.kept)
    if condition is not None:
        selection.keep(f"--where {rules.where}", condition.holds(clips).to_numpy(zero_copy_only=False))
    assigned = {source: read_assigned(run.corpus, looked_at.labels(source)) for source in needed}
    clusters = {source: clusters_of(table, keys) for source, table in assigned.items()}
    if rules.agree:
        first, *others = run.config.modalities
        for other in others:
            selection.keep(
                f"--agree: the clusters of {first} and {other} do not match", agreeing(clusters[first], clusters[other])
            )
    if by is not None and rules.per_cluster is not None:
        seed = derive_seed(run.config.seed if rules.seed is None else rules.seed, "curate")
        distances = distances_of(assigned[by], keys)
        chosen = balanced(selection.chosen, clusters[by], distances, rules.per_cluster, order, seed)
        selection.keep(f"--per-cluster {rules.per_cluster} by {by}: not among the {order} ones", chosen)
    if not selection.chosen.any():
        raise ConfigError(f"no clip of {root} is left. Clips that each rule left out: {selection.left_out}")
    written = selection.chosen if rules.learn_only else selection.chosen | ~learnt
    _write_manifest(run, clips.filter(pa.array(written)), videos, to)
    return {
        "manifest": str(to),
        "round": looked_at.round,
        "by": by,
        "clips": len(keys),
        "learnt": int(learnt.sum()),
        "left_out": selection.left_out,
        "chosen": int(selection.chosen.sum()),
        "other_splits": int((written & ~learnt).sum()),
        "smaller_clusters": _smaller(clusters[by][selection.chosen], rules.per_cluster) if by else None,
    }


def _read_clips(run: Run, condition: Condition | None) -> pa.Table:
    """Return the columns of the index that the rules and the manifest need.

    Raises:
        ConfigError: the index has no column that the condition names.
    """
    shards = shard_names(run.corpus)
    there = read_schema(index_path(run.corpus, shards[0]), "shard").names if shards else []
    if condition is not None:
        condition.check(there)
    needed = {*COLUMNS, *label_columns(run.corpus), *measure_columns(run.config.select)}
    needed |= set(condition.columns if condition is not None else ())
    return read_whole_index(run.corpus, [name for name in there if name in needed])


def _check_keep_list(path: Path, about: Mapping[str, Any], run: Run) -> None:
    """Raise ConfigError if a keep-list is of a corpus or of features that are not there any more.

    A list of another run of the same corpus is welcome: its encoders may be the better ones.
    """
    again = f"Make it again: xdc duplicates {about.get('run')} --round {about.get('round')}"
    corpus = read_manifest(run.corpus)
    if about and corpus is not None and about.get("corpus") not in (None, corpus.fingerprint):
        raise ConfigError(
            f"{path} was made of another corpus than {run.corpus}, or before its clips were cut again. {again}"
        )
    if about.get("run") != str(run.root.resolve()):
        return
    for name, known in about.get("features", {}).items():
        manifest = read_manifest(run.directory(Node("extract", name, about.get("round"))))
        if manifest is not None and manifest.fingerprint != known:
            raise ConfigError(
                f"{path} was made of features of {name} of round {about.get('round')} that have been computed again "
                f"since, by other encoders or settings. {again}"
            )


def _label_sources(looked_at: LookedAt, rules: Rules) -> tuple[str | None, list[str]]:
    """Return the label source to balance by, and all that the rules need.

    Raises:
        ConfigError: the run has no clusters of this source.
    """
    there = [source for source in looked_at.sources if source != TRUTH]
    by = rules.by or next((name for name in (JOINT, *looked_at.modalities) if name in there), None)
    by = by if rules.per_cluster is not None or rules.by else None
    names = [by] if by else []
    if rules.agree:
        if len(looked_at.modalities) < 2:
            raise ConfigError(
                f"--agree compares the clusters of two modalities; the run has {looked_at.modalities[0]}."
            )
        names += looked_at.modalities
    if rules.by and rules.per_cluster is None:
        raise ConfigError(f"--by {rules.by} needs --per-cluster, the number of clips to keep of each cluster.")
    if lacking := [name for name in names if name not in there]:
        method = looked_at.run.config.method
        raise ConfigError(
            f"the run's method {method} makes no clusters of {lacking[0]}, but of {', '.join(there) or 'nothing'}."
        )
    return by, list(dict.fromkeys(names))


def _videos(run: Run) -> Path | None:
    """Return the folder that the sources in the index are relative to; None with given features, whose is not known.

    Raises:
        ConfigError: the corpus was cut, and the run has no `corpus.videos`.
    """
    if not run.config.encoded:
        return None
    if run.videos is None:
        raise ConfigError(
            f"{run.root}: corpus.videos is not set, and a manifest names the files of clips. Set it to the folder or "
            "manifest of which the corpus was cut."
        )
    return open_sources(run.videos, run.config.corpus)[0]


def _write_manifest(run: Run, clips: pa.Table, videos: Path | None, to: Path) -> None:
    here = to.parent.resolve()
    paths = [
        source if videos is None or is_url(source) else os.path.relpath(videos.resolve() / source, here)
        for source in clips["source"].to_pylist()
    ]
    rows = manifest_rows(clips, paths, label_columns(run.corpus))
    with new_file(to) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def _smaller(clusters: np.ndarray, most: int | None) -> int:
    """Return how many clusters have fewer clips than asked for, but some."""
    return int((np.unique(clusters, return_counts=True)[1] < (most or 0)).sum())


def print_subset(written: dict[str, Any]) -> None:
    """Print how many clips each rule left out, and what is in the manifest."""
    print(f"{written['learnt']} clips to learn from, round {written['round']}")
    for rule, count in written["left_out"].items():
        print(f"  {count} left out by {rule}")
    if written["smaller_clusters"]:
        print(f"  {written['smaller_clusters']} clusters had fewer clips than that, and keep all")
    others = f", and {written['other_splits']} of other splits" if written["other_splits"] else ""
    print(
        f"{written['manifest']}: {written['chosen']} clips to learn from{others}. Train on them: xdc init RUN --videos "
        f"{written['manifest']}"
    )
