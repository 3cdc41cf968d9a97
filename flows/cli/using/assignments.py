"""Clusters of new clips: where their features come from, and the labels that they get."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from flows.cli.using.new_clips import embed_videos
from flows.cli.using.nodes import make_nodes
from flows.terminal import counter
from shards.errors import ConfigError
from shards.store.build import Record
from shards.store.manifest import fingerprint
from xdc_core.config.load import FILE_NAME
from xdc_core.config.methods import clustered_from
from xdc_core.documents.scores import Scores, read_scores
from xdc_core.graph.rounds import as_stopped, check_round, newest_with_encoders
from xdc_core.graph.stages import inputs
from xdc_core.new_clips.assignment import Parts, assign
from xdc_core.new_clips.embedding import setup_of
from xdc_core.new_clips.encoders import chosen_modalities
from xdc_core.new_clips.parts import (
    assigned_sources,
    committed,
    outside_folders,
    outside_parts,
    parts_of_run,
    run_of_features,
    same_encoders,
    width_of_features,
)
from xdc_core.runs.node import SHARD, Node
from xdc_core.runs.run import Run, open_run

SHOWN = 12  # Clusters of a label source in a table.
CLIPS = "clips"  # The run with the features of videos, in the directory of their labels.


@dataclass(frozen=True)
class Assigned:
    """The labels of new clips from one label source. balanced: whether the labels of the run itself are balanced."""

    source: str
    record: Record
    scores: Scores
    balanced: bool

    def content(self) -> dict[str, Any]:
        """Return it as JSON values."""
        further = [scores.sizes for scores in self.scores.clusterings]
        return {
            "source": self.source,
            "round": self.record.round,
            "path": self.record.path,
            "clips": self.record.rows,
            "reused": self.record.reused,
            "assign": "nearest",
            "labels_of_the_run": "balanced" if self.balanced else "nearest",
            "k": self.scores.k,
            "empty": self.scores.empty,
            "sizes": self.scores.sizes,
        } | ({"sizes_of_further_clusterings": further} if further else {})


@dataclass(frozen=True)
class Given:
    """What is to be assigned: features of a run, or in folders of Parquet files by modality, or else videos.

    modalities: of which there are features, as far as is known.
    """

    modalities: tuple[str, ...]
    run: Run | None
    folders: dict[str, Path]


def assign_clips(
    root: Path, media: Path, out: Path | None, number: int | None, modality: str | None, layout: str | None
) -> list[Assigned]:
    """Assign clips to the clusters of a round of a run, for each label source that their features allow.

    Videos are embedded first, into `out`/clips. Clusters of the run that are missing are made, if they can be.

    Raises:
        ConfigError: the features are not by the encoders of which the clusters were made, lack a modality, or are not
            finite numbers.
        StageError: a stage failed.
        Busy: another process is making the same.
    """
    run = as_stopped(open_run(root))
    given = what_is_given(run, media, modality)
    sources = assigned_sources(run, given.modalities, str(media))
    needed = {source: clustered_from(source, run.config.modalities) for source in sources}
    names = tuple(dict.fromkeys(name for source in sources for name in needed[source]))
    number = newest_with_encoders(run, names) if number is None else check_round(run, number)
    if out is None:
        out = root / "assigned" / f"{number:03d}-{media.stem}-{fingerprint(str(media.resolve()))[:8]}"
    clusters = {source: Node("cluster", source, number) for source in sources}
    make_nodes(run, what_they_need(run, list(clusters.values())))
    parts = find_parts(run, given, media, out / CLIPS, (number, modality, layout), needed)
    assigned = []
    for source, node in clusters.items():
        directory, target = run.directory(node), out / source
        with counter(f"assign.{source}") as progress:
            frozen = (directory, committed(directory).fingerprint, number)
            record = assign(target, source, frozen, parts[source], run.config.runs_on, progress)
        assigned.append(Assigned(source, record, read_scores(target), run.config.label.assign != "nearest"))
    return assigned


def what_is_given(run: Run, media: Path, modality: str | None) -> Given:
    """Return what is to be assigned to the clusters of a run. modality: if only one is wanted.

    Raises:
        ConfigError: there is nothing at the path, or the modality of its features is not known.
    """
    if not media.exists():
        raise ConfigError(
            f"{media} does not exist. Give videos, a directory of xdc embed, or Parquet files of features."
        )
    wanted = chosen_modalities(run, modality)
    place, own = run_of_features(media)
    if (place / FILE_NAME).exists():
        other = as_stopped(open_run(place))
        there = (own,) if own else other.config.modalities
        return Given(tuple(name for name in wanted if name in there), other, {})
    folders = outside_folders(media, run.config.modalities, modality)
    return Given(tuple(folders) or wanted, None, folders)


def what_they_need(run: Run, nodes: list[Node]) -> list[Node]:
    """Return nodes of clusters after the features that they read, and after encoders that are read from a file.

    The corpus and trainings are not among them.
    """
    features = [node for cluster in nodes for node in inputs(run.config, cluster) if node.stage == "extract"]
    read = [source for node in features for source in inputs(run.config, node)]
    given = [node for node in read if node.stage == "init" and SHARD not in inputs(run.config, node)]
    return list(dict.fromkeys([*given, *features, *nodes]))


def find_parts(
    run: Run,
    given: Given,
    media: Path,
    clips: Path,
    how: tuple[int, str | None, str | None],
    needed: dict[str, tuple[str, ...]],
) -> dict[str, Parts]:
    """Return the features for each label source, after they have been made if they are missing.

    clips: where the features of videos are made. how: the round, and modality and layout, if they were given.
    needed: the modalities of each label source.
    """
    number, modality, layout = how
    names = tuple(dict.fromkeys(name for own in needed.values() for name in own))
    width = {name: width_of_features(run, name, number) for name in names}
    widths = {source: [width[name] for name in own] for source, own in needed.items()}
    if given.folders:
        folders = given.folders
        return {
            source: outside_parts({name: folders[name] for name in own}, widths[source])
            for source, own in needed.items()
        }
    other, there = given.run, 0
    if other is None:
        other = embed_videos(run.root, media, clips, number, modality, layout).run
    else:
        there = same_encoders(run, number, other, names)
        make_nodes(other, [*setup_of(other.config), *(Node("extract", name, there) for name in names)])
    return {source: parts_of_run(other, there, own, widths[source]) for source, own in needed.items()}


def print_assigned(assigned: list[Assigned]) -> None:
    """Print the sizes of the largest clusters of each label source, and where the labels lie."""
    for each in assigned:
        scores = each.scores
        print(
            f"{each.source}, round {each.record.round}: {each.record.rows} clips in {scores.k - scores.empty} of "
            f"{scores.k} clusters: {each.record.path}"
        )
        order = np.argsort(-np.array(scores.sizes), kind="stable")[:SHOWN]
        for cluster in order.tolist():
            if size := scores.sizes[cluster]:
                print(f"  cluster {cluster}: {size} clips ({size / max(1, scores.clips):.1%})")
    if any(each.balanced for each in assigned):
        print(
            "note: the run's own labels are balanced; new clips get the nearest centroid, so that labels of clips that "
            "it has learnt from can differ from these.",
            file=sys.stderr,
        )
