"""The clips that the cluster stage learns from, and the sample of their features: a part of this stage."""

import math
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from shards.corpus.index import in_splits, shard_names
from shards.errors import StageError
from shards.sources.split import check_learn_splits
from shards.store.commit import discard
from shards.store.executor import Advance, Job, MayBeInProcess, run_units
from shards.store.files import part_path
from shards.store.receipt import Receipt, new_shard, receipts_of
from shards.store.stage import Task
from xdc_core.config.selection import ALL_CLIPS, SelectSettings
from xdc_core.data.features import feature_width, source_keys, source_part, source_rows
from xdc_core.data.selection import read_measures, selected
from xdc_core.runs.task import job_of

# Shards per receipt and unit. To read the features of a shard of 1,000 clips takes 20 ms, to assign them to 50,000
# clusters another 400 ms. Sums over the clips depend on it by rounding, so every executor has the same groups.
PER_GROUP = 128
SAMPLE = "sample"  # The folder of the sample in the partial directory, if workers store it.


@dataclass(frozen=True)
class Learnable:
    """The clips to learn from that have a feature, by shard; they are numbered over all shards.

    features: a directory per modality. splits: of the clips; None means all. counts: number of clips by shard.
    select: thresholds that the clips meet.
    """

    corpus: Path
    features: tuple[Path, ...]
    splits: list[str] | None
    counts: dict[str, int]
    select: SelectSettings = ALL_CLIPS

    @property
    def total(self) -> int:
        """Return the number of clips."""
        return sum(self.counts.values())

    def groups(self, clips: int = 0) -> dict[str, list[tuple[str, int, int]]]:
        """Return the groups of shards that are done in one go: for each shard its name, first clip's number, clips.

        A group has PER_GROUP shards, or as many more as have `clips` clips on average.
        """
        length = max(PER_GROUP, math.ceil(clips * len(self.counts) / max(1, self.total)))
        places = [0, *np.cumsum([*self.counts.values()]).tolist()]
        spans = [(shard, first, count) for (shard, count), first in zip(self.counts.items(), places, strict=False)]
        groups = (spans[first : first + length] for first in range(0, len(spans), length))
        return {f"{group[0][0]}-{group[-1][0]}": group for group in groups}

    def read(self, shard: str) -> list[np.ndarray]:
        """Return the features of a shard's clips to learn from: float32 [clips, width] per modality.

        Raises:
            StageError: a file is missing or damaged, or the clips are not as many as counted.
        """
        keys, parts = source_part(self.features, shard)
        if self.splits is not None or self.select.thresholds:
            chosen = _chosen(keys.tolist(), self.corpus, shard, self.splits, self.select)[0]
            parts = [part[chosen] for part in parts]
        if len(parts[0]) != self.counts[shard]:
            raise StageError(
                f"shard {shard}: {len(parts[0])} clips to learn from, but {self.counts[shard]} were counted. Run "
                f"`xdc verify`: the features in {self.features[0]} have most likely been replaced by hand."
            )
        return parts

    def document(self) -> dict[str, Any]:
        """Return JSON values from which `learnable_of` makes the same in another process."""
        return {
            "corpus": str(self.corpus.resolve()),
            "features": [str(path.resolve()) for path in self.features],
            "splits": self.splits,
            "counts": self.counts,
            "select": self.select.model_dump(),
        }


def learnable_of(document: dict[str, Any]) -> Learnable:
    """Return what `Learnable.document` describes."""
    features = tuple(map(Path, document["features"]))
    select = SelectSettings.model_validate(document["select"])
    return Learnable(Path(document["corpus"]), features, document["splits"], document["counts"], select)


def count_learnable(
    corpus: Path, features: Sequence[Path], splits: list[str] | None, select: SelectSettings = ALL_CLIPS
) -> Learnable:
    """Count the clips to learn from. Reads keys, or only footers, of features; with splits or thresholds the index.

    Raises:
        ConfigError: no clip has one of the splits, or a clip lacks a measure that a threshold needs.
        StageError: the corpus has no shards, or a file cannot be read.
    """
    counts: dict[str, int] = {}
    seen: set[str] = set()
    for shard in shard_names(corpus):
        if splits is None and not select.thresholds:
            counts[shard] = source_rows(features, shard)
        else:
            chosen, names = _chosen(source_keys(features, shard), corpus, shard, splits, select)
            counts[shard] = int(chosen.sum())
            seen |= names
    if not counts:
        raise StageError(f"{corpus} has no shards. Check its manifest, and build the corpus again.")
    check_learn_splits(splits, seen, str(corpus))
    return Learnable(corpus, tuple(features), splits, counts, select)


def _chosen(
    keys: list[str], corpus: Path, shard: str, splits: list[str] | None, select: SelectSettings
) -> tuple[np.ndarray, set[str]]:
    """Return which clips are in the splits and meet the thresholds, bool [keys]; and all splits of the shard."""
    index = read_measures(corpus, shard, select, "key", "split")
    wanted = set(index["key"].to_numpy()[in_splits(index["split"], splits) & selected(index, select, corpus)])
    names = {split or "" for split in index["split"].unique().to_pylist()}
    return np.fromiter((key in wanted for key in keys), bool, len(keys)), names


def read_sample(task: Task[Any], learnable: Learnable, sample_mb: float, seed: int) -> list[np.ndarray]:
    """Return the features of a random sample of `sample_mb`, or all that fit: float32 [sample, width] per modality.

    Every file is read once, by the workers of the task's executor if it has any and there are several groups of shards.
    The rows depend on the seed and the number of clips only, and are in the order of the clips.
    """
    groups, (first_shard, *_) = learnable.groups(), learnable.counts
    widths = [feature_width(part_path(directory, first_shard)) for directory in learnable.features]
    limit, total = sample_size(sample_mb, sum(widths)), learnable.total
    chosen = None
    if limit < total:
        chosen = np.sort(np.random.default_rng(seed).choice(total, limit, replace=False))
    sample = [np.empty((min(limit, total), width), np.float32) for width in widths]
    place = 0
    for parts in _sampled(task, learnable, chosen, groups):
        for whole, part in zip(sample, parts, strict=True):
            whole[place : place + len(part)] = part
        place += len(parts[0])
    assert place == len(sample[0])
    return sample


def sample_size(sample_mb: float, width: int) -> int:
    """Return the number of float32 vectors of `width` that fit into `sample_mb`."""
    return max(1, int(sample_mb * 1e6 / (4 * max(width, 1))))


def _sampled(
    task: Task[Any],
    learnable: Learnable,
    chosen: np.ndarray | None,
    groups: dict[str, list[tuple[str, int, int]]],
) -> Iterator[list[np.ndarray]]:
    """Yield sampled features in parts, in order: from the files of features, or from what workers have stored."""
    here = isinstance(task.executor, MayBeInProcess) and task.executor.in_process(gpu=False)
    if here or len(groups) == 1:
        for done, (shard, first, count) in enumerate((span for group in groups.values() for span in group), start=1):
            yield _rows(learnable, shard, chosen, first, count)
            task.progress(done, len(learnable.counts), "shards read")
        return
    folder = task.out / SAMPLE
    folder.mkdir(exist_ok=True)
    if chosen is not None:
        np.save(folder / "chosen.npy", chosen)
    job = job_in(
        folder, task, "xdc_core.stages.sample:sample_groups", learnable, groups=groups, sampled=chosen is not None
    )
    run_units(task.executor, job, {name: len(group) for name, group in groups.items()}, 1, task.progress, "shards read")
    for receipt in receipts_of(folder, groups):
        yield [np.load(folder / name) for name in receipt.files]


def job_in(folder: Path, task: Task[Any], work: str, learnable: Learnable, **arguments: Any) -> Job:
    """Return a job of the task whose receipts and files are in a folder of its own inside the partial directory."""
    out = str(folder.resolve())
    return replace(job_of(task, work, "faiss", out=out, learnable=learnable.document(), **arguments), out=out)


def remove_folder(folder: Path) -> None:
    """Remove a folder in the partial directory, if it is there. A worker that still writes into it fails."""
    if folder.exists():
        discard(folder)
    else:
        shutil.rmtree(folder.with_suffix(".removed"), ignore_errors=True)  # `discard` was killed.


def sample_groups(arguments: dict[str, Any], names: list[str], advance: Advance) -> Iterator[Receipt]:
    """Store the sampled features of some groups of shards: the work of a unit. A file per modality, in their order."""
    out, learnable = Path(arguments["out"]), learnable_of(arguments["learnable"])
    chosen = np.load(out / "chosen.npy", mmap_mode="r") if arguments["sampled"] else None
    for name in names:
        parts = []
        for span in arguments["groups"][name]:
            parts.append(_rows(learnable, span[0], chosen, *span[1:]))
            advance(1, 0)
        with new_shard(out, name) as new:
            for number, columns in enumerate(zip(*parts, strict=True)):
                np.save(new.folder / f"{name}.{number:03d}.npy", np.concatenate(columns))
            new.rows = sum(len(columns[0]) for columns in parts)
        yield new.stored


def _rows(learnable: Learnable, shard: str, chosen: np.ndarray | None, first: int, count: int) -> list[np.ndarray]:
    """Return the sampled features of a shard: float32 [rows, width] per modality. chosen: sorted numbers of clips."""
    parts = learnable.read(shard)
    if chosen is None:
        return parts
    rows = chosen[slice(*np.searchsorted(chosen, [first, first + count]))] - first
    return [part[rows] for part in parts]
