"""The clips of an evaluation that looks at views instead of features: which of them, and which views."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from shards.corpus.index import shard_names
from shards.store.node import Node
from shards.store.stage import Task
from xdc_core.compute.seed import derive_seed
from xdc_core.data.clips import ClipItem, ClipRows, ClipViews
from xdc_core.data.view_starts import START_COLUMNS, starts_by_row
from xdc_core.evaluation.recordings import Recordings
from xdc_core.evaluation.settings import Evaluation
from xdc_core.runs.node import SHARD


@dataclass(frozen=True)
class EvaluationClips:
    """`clips` [recordings] are the row numbers of the clips of each recording, `recording_of` the recording of a row.
    `starts[row]`: the first frames of the views to test on, None for the centre.
    """

    views: ClipViews
    clips: list[list[int]]
    recording_of: dict[int, int]
    starts: dict[int, tuple[int | None, ...]]


def read_evaluation_clips(task: Task[Evaluation], recordings: Recordings) -> EvaluationClips:
    """Read which clips the recordings of an evaluation have.

    Of the run's corpus the centre of each clip is tested; of a data set, as many equally spaced views of each recording
    as its settings say.
    """
    dataset, wanted = task.settings.dataset, task.settings.views
    assert wanted is not None
    spaced: list[list[int]] | None = None
    if dataset is None:
        corpus = task.directory(SHARD)
        rows = ClipRows(corpus, shard_names(corpus), wanted.modality)
    else:
        corpus = task.directory(Node("data", task.settings.evaluation.data))
        rows = ClipRows(corpus, shard_names(corpus), wanted.modality, START_COLUMNS)
        spaced = starts_by_row(rows, wanted.frames, dataset.views)
    clips: list[list[int]] = [[] for _ in recordings.names]
    recording_of: dict[int, int] = {}
    starts: dict[int, tuple[int | None, ...]] = {}
    for row, key in enumerate(rows.keys.to_pylist()):
        if key in recordings.of_clip:
            recording_of[row] = recordings.of_clip[key]
            clips[recording_of[row]].append(row)
            starts[row] = (None,) if spaced is None else tuple(spaced[row])
    return EvaluationClips(ClipViews(corpus, rows, wanted), clips, recording_of, starts)


def epoch_items(
    of: EvaluationClips, groups: list[np.ndarray], seed: int, rng: np.random.Generator | None, share: tuple[int, int]
) -> Iterator[Iterator[ClipItem]]:
    """Yield batches of items: a random view of a random clip of each recording of a group.

    rng: draws everything, in the order in which the items are taken, which must be from first to last. None: the draws
    of a recording depend on `seed` and its position in the epoch alone, and of each group only the part share[0] of
    share[1] is taken.
    """
    position = 0
    for group in groups:
        positions = np.arange(position, position + len(group))
        position += len(group)
        own = zip(np.array_split(group, share[1])[share[0]], np.array_split(positions, share[1])[share[0]], strict=True)
        yield (_random_item(of, int(owner), rng, derive_seed(seed, int(place))) for owner, place in own)


def _random_item(of: EvaluationClips, recording: int, rng: np.random.Generator | None, seed: int) -> ClipItem:
    # Clips with a view to test on, where there are any: of a long recording, the others are between these.
    clips = [row for row in of.clips[recording] if of.starts[row]] or of.clips[recording]
    if rng is not None:
        return ClipItem(int(rng.choice(clips)), seed=rng)
    return ClipItem(int(np.random.default_rng(seed).choice(clips)), seed=derive_seed(seed, "view"))


def items_to_test(of: EvaluationClips, recording: int) -> list[ClipItem]:
    """Return the items of all views that a recording is tested on."""
    return [ClipItem(row, of.starts[row]) for row in of.clips[recording] if of.starts[row]]
