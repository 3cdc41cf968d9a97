"""Try a sample of a run's sources in a temporary folder: cut it, and do one round with it."""

import math
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from flows.runners.do_node import do_node
from flows.runners.forked import Children
from flows.runners.tree_memory import tree_memory
from flows.terminal import counter
from shards.corpus.index import read_index, shard_names
from shards.corpus.listing import list_columns
from shards.errors import Busy, ConfigError, XdcError
from shards.sources.columns import source_columns
from shards.sources.split import check_learn_splits
from shards.store.build import Record
from shards.store.files import part_path
from shards.store.parquet import read_parquet
from xdc_core.cleaning.usage import files_below
from xdc_core.data.features import feature_width
from xdc_core.graph.stages import round_nodes
from xdc_core.planning.cutting import costs
from xdc_core.planning.draw import (
    HEADERS,
    Drawn,
    learnt_share,
    numbers_drawn,
    seconds_of,
    tried_parts,
    write_sample,
)
from xdc_core.planning.forecast import Trial, Work
from xdc_core.planning.trial import SAMPLE, label_sources, largest_k, trial_config, write_trial
from xdc_core.runs.node import SHARD, Node
from xdc_core.runs.run import Run
from xdc_core.stages.cluster import clustered_features
from xdc_core.stages.sample import sample_size

if TYPE_CHECKING:
    from xdc_core.planning.clustering import ClusteringRate

SURVEYED = "files probed"  # The note of the messages that the stage `shard` sends while it looks at files.


@dataclass
class Messages:
    """A listener that keeps when which message of progress came: seconds, done, total, note."""

    by_node: dict[Node, list[tuple[float, int, int, str]]] = field(default_factory=lambda: defaultdict(list))

    def progress(self, node: Node, done: int, total: int, note: str) -> None:
        """Keep a message."""
        self.by_node[node].append((time.monotonic(), done, total, note))

    def waiting(self, node: Node, busy: Busy) -> None:
        """Ignore that another process builds the node: the folder is ours."""

    def finished(self, node: Node, record: Record) -> None:
        """Print a line."""
        print(f"  {node.name}: {record.seconds:.1f} s", file=sys.stderr, flush=True)

    def failed(self, node: Node, error: XdcError) -> None:
        """Leave the error to whoever called."""


def steps_of(messages: Sequence[tuple[float, int, int, str]], units: float) -> tuple[tuple[float, float], ...]:
    """Return the pairs (units, seconds) between messages that went on. units: what `total` stands for."""
    return tuple(
        (units * (after[1] - before[1]) / after[2], after[0] - before[0])
        for before, after in pairwise(messages)
        if after[2] == before[2] and after[1] > before[1]
    )


def try_sample(run: Run, videos: int, folder: Path, headers: int = HEADERS) -> Trial:
    """Cut a sample of a run's sources into `folder`, do a round with it, and return what was measured.

    Nothing is written into the run or its corpus. videos: number of sources that are tried.

    Raises:
        ConfigError: the run has no videos, or they are not where xdc.yaml says; nothing of the sample can be used.
        StageError: a stage of the trial failed.
    """
    if run.features:
        raise ConfigError(f"{run.root} has features of somebody else (corpus.features): there is nothing to try.")
    if run.videos is None or not run.videos.exists():
        what = "is not set" if run.videos is None else f"is {run.videos}, which does not exist"
        raise ConfigError(f"{run.root}: corpus.videos {what}. A plan is made from the sources: set it in xdc.yaml.")
    listing = list_columns(run.videos, run.config.corpus)
    sources = source_columns(listing.sources)
    check_learn_splits(run.config.corpus.learn_splits, {source.split for source in sources}, str(run.videos))
    seed, settings = run.config.seed, run.config.corpus
    numbers = numbers_drawn(len(sources), max(headers, videos), seed)
    with counter("headers") as progress:
        seconds = seconds_of(listing, [sources[number] for number in numbers], settings, progress)
    chosen = numbers_drawn(len(numbers), videos, seed + 1)
    of_sample = [sources[numbers[place]] for place in chosen]
    drawn = tried_parts(listing.root, of_sample, [seconds[place] for place in chosen], settings)
    if not any(each.seconds for each in drawn):
        raise ConfigError(
            f"none of the {len(chosen)} sources that would be tried can be opened as media; the first is "
            f"{drawn[0].tried.path}. Try more with --videos, or correct corpus.videos."
        )
    write_sample(folder / SAMPLE, drawn)
    expected = sum(math.ceil(each.tried_s / settings.clip_seconds) for each in drawn)
    trial = write_trial(folder, trial_config(run, expected))
    messages, memory, works = Messages(), dict[str, int](), list[Work]()
    print(f"Trying {len(chosen)} of {len(sources)} sources in {folder} ...", file=sys.stderr, flush=True)
    with Children() as children:
        children.warm_up()  # Their imports are no part of a stage's time, as in `xdc run`.
        began = time.monotonic()
        with tree_memory() as watched:
            do_node(trial, SHARD, children, [messages])
        cut_seconds, memory["shard"] = time.monotonic() - began, watched.peak
        clips, sizes = _clips_of(trial, drawn)
        rejects = _rejects(trial)
        if not sum(clips):
            raise ConfigError(
                f"none of {len(chosen)} sources that were tried gives a clip: {'; '.join(rejects[:3])}. Try more with "
                "--videos, or correct corpus.videos."
            )
        trial = write_trial(folder, trial_config(run, expected, sum(clips)))
        for stage, nodes in _by_stage(trial).items():
            with tree_memory() as watched, ThreadPoolExecutor(len(nodes)) as pool:
                side_by_side = len(nodes) if trial.config.runs_on.parallel else 1
                for first in range(0, len(nodes), side_by_side):
                    group = nodes[first : first + side_by_side]
                    started = {node: pool.submit(do_node, trial, node, children, [messages]) for node in group}
                    try:
                        for node, record in started.items():
                            works.append(_work(trial, node, record.result(), messages, sum(clips)))
                    except BaseException:
                        children.close()  # Else the pool would wait for the others.
                        raise
            memory[stage] = watched.peak
    widths = {name: _width(trial, name) for name in trial.config.modalities}
    learnt = learnt_share(sources, settings.learn_splits)
    rate = sum(clips) / max(1e-9, sum(each.tried_s for each in drawn))
    all_clips = rate * len(sources) * sum(seconds) / len(seconds) * learnt
    return Trial(
        listed=len(sources),
        headers=seconds,
        drawn=drawn,
        clips=clips,
        bytes=sizes,
        costs=costs(drawn, settings),
        **_shard_works(trial, messages, cut_seconds, drawn),
        works=works,
        widths=widths,
        key_bytes=_key_bytes(trial),
        clustering=_clustering(run, widths, all_clips),
        memory={stage: peak for stage, peak in memory.items() if peak},
        learnt=learnt,
        rejects=rejects,
        unread=len(listing.rejects),
    )


def _by_stage(trial: Run) -> dict[str, list[Node]]:
    """Return the nodes of the trial by stage, each after those that it reads."""
    by_stage = defaultdict(list)
    for node in (*(Node("init", name) for name in trial.config.modalities), *round_nodes(trial.config, 0)):
        by_stage[node.stage].append(node)
    return dict(by_stage)


def _work(trial: Run, node: Node, record: Record, messages: Messages, clips: int) -> Work:
    directory = trial.directory(node)
    heard = messages.by_node[node]
    units = heard[-1][2] if node.stage == "train" and heard else clips
    return Work(
        node=node,
        seconds=record.seconds,
        units=units,
        steps=steps_of(heard, units),
        bytes=sum(path.stat().st_size for path in files_below(directory)),
        parts=len(shard_names(trial.corpus)),
    )


def _shard_works(trial: Run, messages: Messages, seconds: float, drawn: Sequence[Drawn]) -> dict[str, Work]:
    """Return the works of looking at files and of cutting, which the stage `shard` does one after the other."""
    heard = messages.by_node[SHARD]
    looking = [message for message in heard if message[3].startswith(SURVEYED)]
    cutting = [message for message in heard if not message[3].startswith(SURVEYED)]
    began = heard[0][0] if heard else 0.0
    looked_s = looking[-1][0] - began if looking else 0.0
    media = sum(each.tried_s for each in drawn)
    size = sum(path.stat().st_size for path in files_below(trial.corpus))
    sources = len({each.number for each in drawn})
    survey = Work(SHARD, looked_s, sources, steps_of(looking, sources), 0)
    return {"survey": survey, "cut": Work(SHARD, seconds - looked_s, media, steps_of(cutting, media), size)}


def _clips_of(trial: Run, drawn: Sequence[Drawn]) -> tuple[list[int], list[int]]:
    """Return the number of clips of each source or stretch of the sample, and their bytes."""
    clips, sizes = [0] * len(drawn), [0] * len(drawn)
    by_path = defaultdict(list)
    for number, each in enumerate(drawn):
        by_path[each.tried.path].append(number)
    for shard in shard_names(trial.corpus):
        for row in read_index(trial.corpus, shard, ["source", "start_s", "mp4_size", "flac_size"]).to_pylist():
            numbers = by_path[str((trial.root / row["source"]).resolve())]
            inside = (number for number in numbers if _has(drawn[number], row["start_s"]))
            number = next(inside, numbers[0])
            clips[number] += 1
            sizes[number] += row["mp4_size"] + row["flac_size"]
    return clips, sizes


def _has(drawn: Drawn, start_s: float) -> bool:
    first, last = drawn.tried.start_s or 0.0, drawn.tried.end_s
    return first - 1e-3 <= start_s and (last is None or start_s < last)


def _rejects(trial: Run) -> list[str]:
    """Return a line for each kind of rejects, the most frequent first: how many there are, and the first one."""
    by_kind = defaultdict(list)
    for row in read_parquet(trial.corpus / "rejects.parquet", "shard").to_pylist():
        by_kind[row["kind"]].append(f"{Path(row['source']).name}: {row['reason']}")
    ordered = sorted(by_kind.items(), key=lambda pair: -len(pair[1]))
    return [f"{kind} {len(rejects)} ({rejects[0]})" for kind, rejects in ordered]


def _width(trial: Run, modality: str) -> int:
    directory = trial.directory(Node("extract", modality, 0))
    return feature_width(part_path(directory, shard_names(trial.corpus)[0]))


def _key_bytes(trial: Run) -> float:
    """Return the mean length of a clip's key, with the four bytes that Parquet adds to it."""
    shards = shard_names(trial.corpus)
    keys = [key for shard in shards for key in read_index(trial.corpus, shard, ["key"])["key"].to_pylist()]
    return 4 + sum(map(len, keys)) / len(keys)


def _clustering(run: Run, widths: dict[str, int], clips: float) -> "dict[str, ClusteringRate]":
    """Return the rate of every label source's clustering. Imports faiss, which no child needs any more."""
    from xdc_core.planning.clustering import clustering_rate

    rates = {}
    for source in label_sources(run.config):
        read = [str(node.modality) for node in clustered_features(run.config, Node("cluster", source, 0))]
        of_source = {name: widths[name] for name in read}
        rows = int(min(clips, sample_size(run.config.cluster.sample_mb, sum(of_source.values()))))
        rates[source] = clustering_rate(run.config, source, of_source, largest_k(run.config, source), rows)
    return rates
