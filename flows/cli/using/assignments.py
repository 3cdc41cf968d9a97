"""Clusters of new clips: where their features come from, and the labels that they get."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from flows.cli.using.new_clips import embed_by
from flows.cli.using.nodes import make_nodes
from flows.terminal import counter
from shards.errors import ConfigError
from shards.settings import CorpusSettings
from shards.store.build import Record
from shards.store.manifest import fingerprint
from xdc_core.config.load import FILE_NAME
from xdc_core.config.schema import RunsOn
from xdc_core.documents.scores import Scores, read_scores
from xdc_core.graph.rounds import as_stopped, check_round
from xdc_core.graph.stages import features_before
from xdc_core.modalities.registry import in_order
from xdc_core.new_clips.assignment import assign
from xdc_core.new_clips.clusters import Clusters, clusters_of_run, fitting_sources, sources_of_run
from xdc_core.new_clips.embedding import setup_of
from xdc_core.new_clips.encoders import Encoders, chosen_modalities, encoders_of_run
from xdc_core.new_clips.exported import clusters_of_export, encoders_of_export, read_exports, sources_of_export
from xdc_core.new_clips.outside_features import check_widths, make_outside_run, outside_folders
from xdc_core.new_clips.parts import Parts, parts_of_run, run_of_features, same_encoders
from xdc_core.runs.node import SHARD, Node
from xdc_core.runs.run import Run, open_run

REJECTS = "rejects.parquet"
SHOWN = 12  # Clusters of a label source in a table.
# In the directory of labels: the run with the features of videos; and the runs that take features over from files.
CLIPS, GIVEN = "clips", "given"


@dataclass(frozen=True)
class Assigned:
    """The labels of new clips from one label source.

    parts: their features. balanced: whether the labels of the run itself are balanced.
    """

    source: str
    record: Record
    scores: Scores
    parts: Parts
    balanced: bool

    def content(self) -> dict[str, Any]:
        """Return it as JSON values."""
        further = [scores.sizes for scores in self.scores.clusterings]
        return {
            "source": self.source,
            "round": self.record.round,
            "path": self.record.path,
            "clips": self.record.rows,
            "without_features": self.record.rejects,
            "rejects": self.parts.rejects,
            "rejects_in": str(self.parts.corpus / REJECTS),
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
    """Assign clips to the clusters of a round of a run, or of an export, for each label source that their features
    allow.

    Videos are embedded first, into `out`/clips. Clusters of the run that are missing are made, if they can be.

    Raises:
        ConfigError: the features are not by the encoders of which the clusters were made, lack a modality, or are not
            finite numbers.
        StageError: a stage failed.
        Busy: another process is making the same.
    """
    encoders: Encoders | None
    if exported := read_exports(root):
        if out is None:
            raise ConfigError("Give --out, the directory of the labels: an export is not written to.")
        given = what_is_given(root, tuple(exported), media, modality)
        sources = fitting_sources(root, sources_of_export(root, exported), given.modalities, media)
        encoders = encoders_of_export(root, exported, modalities_of(sources), number)
        clusters, runs_on, balanced = clusters_of_export(root, exported, sources), RunsOn(), False
        start, per_shard = encoders.round, CorpusSettings().clips_per_shard
    else:
        run = as_stopped(open_run(root))
        given = what_is_given(root, run.config.modalities, media, modality)
        sources = fitting_sources(root, sources_of_run(run), given.modalities, media)
        # A run of given features has no encoder; it is only needed for videos.
        needless = not run.config.encoded and (given.run or given.folders)
        encoders = None if needless else encoders_of_run(run, number, modalities_of(sources))
        start = encoders.round if encoders else check_round(run, number or 0)
        made = [Node("cluster", source, start) for source in sources]
        make_nodes(run, made, features_before(run.config, made))
        clusters, runs_on = clusters_of_run(run, start, sources), run.config.runs_on
        per_shard = run.config.corpus.clips_per_shard
        balanced = run.config.label.assign != "nearest"
    if out is None:
        what = [str(media.resolve()), modality, layout, encoders.sha256 if encoders else {}]
        out = root / "assigned" / f"{start:03d}-{media.stem}-{fingerprint(what)[:8]}"
    if given.folders:
        parts = take_parts(given.folders, clusters, out / GIVEN, per_shard, runs_on)
    else:
        parts = find_parts(encoders, given, root, media, out / CLIPS, layout, sources)
    assigned = []
    for own in clusters:
        target = out / own.source
        with counter(f"assign.{own.source}") as progress:
            record = assign(target, own, parts[own.source], runs_on, progress)
        assigned.append(Assigned(own.source, record, read_scores(target), parts[own.source], balanced))
    return assigned


def modalities_of(sources: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """Return the modalities of which label sources are clustered, in the order of the registry."""
    return in_order(tuple({name for own in sources.values() for name in own}))


def what_is_given(root: Path, modalities: tuple[str, ...], media: Path, modality: str | None) -> Given:
    """Return what is to be assigned to the clusters of a run with these modalities. modality: if only one is wanted.

    Raises:
        ConfigError: there is nothing at the path, or the modality of its features is not known.
    """
    if not media.exists():
        raise ConfigError(
            f"{media} does not exist. Give videos, a directory of xdc embed, or Parquet files of features."
        )
    wanted = chosen_modalities(root, modalities, modality)
    place, own = run_of_features(media)
    if (place / FILE_NAME).exists():
        other = as_stopped(open_run(place))
        there = (own,) if own else other.config.modalities
        return Given(tuple(name for name in wanted if name in there), other, {})
    folders = outside_folders(media, modalities, modality)
    return Given(tuple(folders) or wanted, None, folders)


def take_parts(
    folders: Mapping[str, Path], clusters: Sequence[Clusters], out: Path, per_shard: int, runs_on: RunsOn
) -> dict[str, Parts]:
    """Return somebody else's features for each label source, taken over into runs in `out`.

    folders: by modality. per_shard: clips per file.

    Raises:
        ConfigError: a file has no features, or these have another width than the clusters need; or `out` has others.
        StageError: no clip has features of all modalities of a label source.
    """
    found = {}
    for own in clusters:
        of_source = {name: folders[name] for name in own.modalities}
        run = make_outside_run(out / own.source, of_source, per_shard, runs_on)
        records = make_nodes(run, [SHARD, *(Node("extract", name, 0) for name in own.modalities)])
        check_widths(records[SHARD].summary["widths"], of_source, own)
        found[own.source] = parts_of_run(run, 0, own.modalities)
    return found


def find_parts(
    encoders: Encoders | None,
    given: Given,
    root: Path,
    media: Path,
    clips: Path,
    layout: str | None,
    sources: Mapping[str, tuple[str, ...]],
) -> dict[str, Parts]:
    """Return the features for each label source, after they have been made if they are missing.

    encoders: None if the clusters are of given features. root: of the clusters. clips: where the features of videos are
    made. sources: the modalities of each label source.

    Raises:
        ConfigError: the features of a run are not by the encoders of which the clusters were made.
    """
    run, number, names = given.run, 0, modalities_of(sources)
    if run is None:
        assert encoders is not None  # Without encoders there are features.
        run = embed_by(encoders, media, clips, layout).run
    else:
        if encoders is not None:
            number = same_encoders(encoders, run, names, ", of which the clusters were made")
        elif run.config.encoded:
            raise ConfigError(
                f"{run.root} has features by encoders, and the clusters of {root} are of given features "
                "(corpus.features). Give features by the same means: Parquet files, or a run with given features."
            )
        make_nodes(run, [*setup_of(run.config), *(Node("extract", name, number) for name in names)])
    return {source: parts_of_run(run, number, own) for source, own in sources.items()}


def print_assigned(assigned: list[Assigned]) -> None:
    """Print the sizes of the largest clusters of each label source, and where the labels lie."""
    for each in assigned:
        scores = each.scores
        print(
            f"{each.source}, round {each.record.round}: {each.record.rows} clips in {scores.k - scores.empty} of "
            f"{scores.k} clusters: {each.record.path}"
        )
        if lacking := each.record.rejects:
            print(f"  {lacking} clips lack features that the clusters are made of, and get no label")
        if each.parts.rejects:
            print(f"  {each.parts.rejects} files, rows or clips were rejected; all: {each.parts.corpus / REJECTS}")
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
