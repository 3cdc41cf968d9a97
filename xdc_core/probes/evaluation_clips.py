"""The clips and views of an evaluation that encodes views itself (fine-tuning)."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from shards.store.node import Node
from shards.store.stage import Task
from xdc_core.compute.seed import derive_seed
from xdc_core.config.finetune import FinetuneSettings
from xdc_core.data.clips import ClipItem, ClipViews
from xdc_core.data.rows import corpus_rows
from xdc_core.data.view_starts import labels_by_row, starts_by_row
from xdc_core.evaluation.recordings import Recordings
from xdc_core.evaluation.settings import Evaluation
from xdc_core.runs.node import SHARD


@dataclass(frozen=True)
class EvaluationClips:
    """The clips of an evaluation's recordings.

    clips: row numbers of the clips of each recording, [recordings]. recording_of: recording by row. starts: by row, the
    first frames of the test views, None for the centre view.
    """

    views: ClipViews
    clips: list[list[int]]
    recording_of: dict[int, int]
    starts: dict[int, tuple[int | None, ...]]


def read_evaluation_clips(task: Task[Evaluation], recordings: Recordings) -> EvaluationClips:
    """Read the clips and test views of an evaluation's recordings.

    A clip of the run's corpus has one test view, its centre. A recording of a data set has as many equally spaced test
    views as the data set's setting `views`.
    """
    dataset, wanted = task.settings.dataset, task.settings.views
    assert wanted is not None
    spaced: list[list[int]] | None = None
    if dataset is None:
        corpus = task.directory(SHARD)
        rows = corpus_rows(corpus, wanted.modality, task.root)
    else:
        corpus = task.directory(Node("data", task.settings.evaluation.data))
        rows = corpus_rows(corpus, wanted.modality, task.root)
        spaced = starts_by_row(rows, wanted.frames, dataset.views, labels_by_row(corpus))
    clips: list[list[int]] = [[] for _ in recordings.names]
    recording_of: dict[int, int] = {}
    starts: dict[int, tuple[int | None, ...]] = {}
    for row, key in enumerate(rows.keys.to_pylist()):
        if key in recordings.of_clip:
            recording_of[row] = recordings.of_clip[key]
            clips[recording_of[row]].append(row)
            starts[row] = (None,) if spaced is None else tuple(spaced[row])
    views = ClipViews(corpus, rows, wanted, task.settings.runs_on.clip_cache)
    return EvaluationClips(views, clips, recording_of, starts)


def epoch_groups(train: np.ndarray, settings: FinetuneSettings, rng: np.random.Generator) -> list[np.ndarray]:
    """Return the recordings of each step of an epoch, int64 [about settings.batch] each, in random order.

    An epoch has `clips_per_recording` views of each recording, or `epoch_clips` views: whole passes over the
    recordings, and a part of the last one. Views that fill no batch are left out.
    """
    if settings.epoch_clips is None:
        order = rng.permutation(np.repeat(train, settings.clips_per_recording))
    else:
        passes = math.ceil(settings.epoch_clips / len(train))
        order = np.concatenate([rng.permutation(train) for _ in range(passes)])[: settings.epoch_clips]
    steps = max(1, len(order) // settings.batch)
    return np.array_split(order[: max(steps * settings.batch, 2)], steps)


def epoch_items(
    of: EvaluationClips, groups: list[np.ndarray], seed: int, rng: np.random.Generator | None, share: tuple[int, int]
) -> Iterator[Iterator[ClipItem]]:
    """Yield one batch of items per group: a random view of a random clip of each of its recordings.

    groups: recordings, int64 [batch] each. rng: makes all random draws, in the order of the items, which must be used
    from first to last. None: the draws for a recording depend only on `seed` and its position in the epoch. share: the
    rank and the number of ranks; a batch has this rank's part of the group.
    """
    first = 0
    for group in groups:
        positions = np.arange(first, first + len(group))
        first += len(group)
        own = zip(np.array_split(group, share[1])[share[0]], np.array_split(positions, share[1])[share[0]], strict=True)
        yield (_random_item(of, int(owner), rng, derive_seed(seed, int(position))) for owner, position in own)


def _random_item(of: EvaluationClips, recording: int, rng: np.random.Generator | None, seed: int) -> ClipItem:
    # Prefer clips with a test view. Long recordings have further clips between these.
    clips = [row for row in of.clips[recording] if of.starts[row]] or of.clips[recording]
    if rng is not None:
        return ClipItem(int(rng.choice(clips)), seed=rng)
    return ClipItem(int(np.random.default_rng(seed).choice(clips)), seed=derive_seed(seed, "view"))


def items_to_test(of: EvaluationClips, recording: int) -> list[ClipItem]:
    """Return the items of all test views of a recording."""
    return [ClipItem(row, of.starts[row]) for row in of.clips[recording] if of.starts[row]]
