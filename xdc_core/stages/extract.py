"""The extract stage: compute one feature per clip, in the order of the index, shard by shard."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from shards.corpus.index import count_clips, read_index, shard_names
from shards.errors import StageError
from shards.reject import Reject
from shards.store.build import Outcome
from shards.store.executor import Advance, run_units
from shards.store.files import part_name
from shards.store.manifest import missing_files, read_manifest
from shards.store.node import Node
from shards.store.receipt import Receipt, new_shard, receipts_of
from shards.store.stage import Stage, Task
from shards.store.units import add_up
from xdc_core.compute.threads import thread_count
from xdc_core.config.schema import Config, ExtractSettings, RunsOn
from xdc_core.config.views import encoding_settings, views_of
from xdc_core.data.features import write_features
from xdc_core.data.kept_features import KEPT as KEPT_SHARD
from xdc_core.data.kept_features import keep_features, keepable_shards
from xdc_core.modalities.registry import VIEW_MODULES
from xdc_core.modalities.view import Views
from xdc_core.outside.take import take_features
from xdc_core.runs.node import SHARD, encoder_node
from xdc_core.runs.run import Run
from xdc_core.runs.task import job_of, task_of_document

KEPT = 4  # Shards whose starts of views are kept: the loader reads ahead into the next ones.


@dataclass(frozen=True)
class Extraction:
    """The part of the configuration for the stage. `extract.batch`, `runs_on`: not in the fingerprint."""

    views: Views
    extract: ExtractSettings
    runs_on: RunsOn

    def hashed(self) -> dict[str, Any]:
        """Return the settings that decide the features."""
        averaged = {"views": self.extract.views} if self.extract.views > 1 else {}
        return {"view": self.views.hashed(training=False), **encoding_settings(self.extract), **averaged}


@dataclass(frozen=True)
class Given:
    """The part of the configuration for features that somebody else computed. folder: relative to the run."""

    folder: str

    def hashed(self) -> dict[str, Any]:
        """Return that the features are given. Their content is in the fingerprint of the corpus."""
        return {"features": "given"}


def extract_or_take(task: Task[Any]) -> Outcome:
    """Write `data/<shard>.parquet` with columns key and feature for every shard: computed, or taken over if given.

    Raises:
        ConfigError, StageError: as `extract` or `take_features`.
    """
    if not isinstance(task.settings, Given):
        return extract(task)
    corpus, folder = task.directory(SHARD), (task.root / task.settings.folder).resolve()
    sizes = {shard: count_clips(corpus, shard) for shard in shard_names(corpus)}
    take_features(task.about, folder, corpus, task.out, task.progress)
    rows, rejects, notes = add_up(receipts_of(task.out, sizes), sizes)
    return Outcome(rows, rejects, notes, tuple(map(part_name, sizes)))


def extract(task: Task[Extraction]) -> Outcome:
    """Write `data/<shard>.parquet` with columns key and feature for every shard, in units; existing shards are kept.

    A feature is that of the clip's centre view. With `extract.views` above 1 it is the mean of the features of as many
    views with equally spaced starts, the first at the beginning of the clip, the last at its end, as an evaluation
    spaces them over a recording. Views of a short clip that would start at the same frame count once.

    A clip that does not decode is left out, and listed in `<shard>.rejects.json` with the reason.

    Where the corpus was appended to, features of earlier shards by the same encoder are kept; the summary counts them.

    Raises:
        StageError: a feature is not finite.
    """
    corpus = task.directory(SHARD)
    sizes = {shard: count_clips(corpus, shard) for shard in shard_names(corpus)}
    _keep(task, corpus, list(sizes))
    on_gpu = task.settings.runs_on.device != "cpu"
    job = job_of(task, "xdc_core.stages.extract:extract_shards", "torch", on_gpu, sizes=sizes)
    run_units(task.executor, job, sizes, 1, task.progress)
    kept = 0

    def receipts() -> Iterator[Receipt]:
        nonlocal kept
        for receipt in receipts_of(task.out, sizes):
            kept += receipt.notes.pop(KEPT_SHARD, False)
            yield receipt

    rows, rejects, notes = add_up(receipts(), sizes)
    summary = notes | ({"kept_shards": kept} if kept else {})
    return Outcome(rows, rejects, summary, tuple(map(part_name, sizes)))


def _keep(task: Task[Extraction], corpus: Path, shards: list[str]) -> None:
    """Store the features that an earlier generation of the corpus has, if there is one and the encoder is the same."""
    if task.forced:
        return
    node = encoder_node(task.about, task.round)
    before, encoder = read_manifest(task.target), read_manifest(task.directory(node))
    about = [EXTRACT.version, task.settings.hashed()]
    kept = keepable_shards(corpus, before, (str(node), encoder.fingerprint if encoder else ""), about)
    if before is not None and kept and not missing_files(task.target, before):
        keep_features(corpus, task.target, before, task.out, shards, kept)


def extract_shards(arguments: dict[str, Any], shards: list[str], advance: Advance) -> Iterator[Receipt]:
    """Store the features of some shards, and yield their receipts: the work of a unit."""
    import numpy as np
    import torch

    from xdc_core.compute.device import choose_device
    from xdc_core.data.clips import ClipItem, ClipViews, ShardRows
    from xdc_core.data.encode import check_finite, encode_shards, load_encoding, write_rejects

    task = task_of_document(EXTRACT, arguments["task"])
    node, out, corpus, settings = task.node, task.out, task.directory(SHARD), task.settings
    torch.set_num_threads(thread_count(settings.runs_on))
    device = choose_device(settings.runs_on)
    encoder = task.directory(encoder_node(task.about, task.round))
    encoding = load_encoding(encoder, corpus, settings.views, settings.extract, device.device)
    rows = ShardRows(corpus, {shard: arguments["sizes"][shard] for shard in shards}, settings.views.modality)
    clips = ClipViews(corpus, rows, settings.views, settings.runs_on.clip_cache)
    views = settings.extract.views
    starts_in = lru_cache(maxsize=KEPT)(partial(spaced_views, corpus, settings.views.frames, views))

    def of_views(number: int) -> ClipItem:
        shard, place = rows.place(number)
        return ClipItem(number, starts_in(shard)[place])

    item: Callable[[int], ClipItem] = ClipItem if views == 1 else of_views
    batch = max(1, settings.extract.batch // views)  # This many clips have about `extract.batch` views.
    for shard, encoded in encode_shards(encoding, clips, rows.spans, batch, advance, item, mean=views > 1):
        first, keys = rows.spans[shard].start, rows.of(shard).keys
        reasons = {number - first: reason for number, reason in encoded.rejects.items()}
        _check_rows(node, shard, len(keys), [*(number - first for number in encoded.rows), *reasons])
        good = keys.take(np.asarray(encoded.rows, np.int64) - first).to_pylist()
        check_finite(node, good, encoded.features)
        rejects = [Reject(corpus.name, node.name, "damaged", reasons[n], keys[n].as_py()) for n in reasons]
        with new_shard(out, shard) as new:
            write_rejects(new.folder, shard, rejects)
            write_features(new.folder / part_name(shard), good, encoded.features)
            new.rows, new.rejects = len(good), len(rejects)
            new.notes = {"width": encoding.width, "device": str(device)} | ({"views": views} if views > 1 else {})
        yield new.stored


def spaced_views(corpus: Path, wanted: int, views: int, shard: str) -> list[tuple[int, ...]]:
    """Return, for each clip of a shard, the first frames of its equally spaced views, without repetitions.

    wanted: frames of a view.
    """
    from xdc_core.data.view_starts import clip_starts

    lengths = read_index(corpus, shard, ["frames"])["frames"].to_pylist()
    return [clip_starts(frames, wanted, views) for frames in lengths]


def _check_rows(node: Node, shard: str, clips: int, rows: list[int]) -> None:
    if sorted(rows) != list(range(clips)):
        raise StageError(
            f"{node}, shard {shard}: {len(rows)} features and rejects for {clips} clips. This is a defect of xdc; "
            "please report it."
        )


def _nodes(config: Config, number: int | None) -> list[Node]:
    return [] if number is None else [Node("extract", modality, number) for modality in config.modalities]


def _inputs(config: Config, node: Node) -> list[Node]:
    assert node.round is not None
    return [SHARD] if config.corpus.features else [SHARD, encoder_node(str(node.modality), node.round)]


def _settings(config: Config, node: Node) -> Extraction | Given:
    if config.corpus.features:
        return Given(config.corpus.features[str(node.modality)])
    return Extraction(views_of(config, str(node.modality)), config.extract, config.runs_on)


EXTRACT: Stage[Config, Run, Any] = Stage(
    name="extract",
    version=2,
    summary="Compute one modality's features.",
    unit="clip",
    folder="features",
    of="modality",
    each_round=True,
    library="torch",
    modules=("xdc_core.data.encode", "xdc_core.encoders.r2plus1d", "xdc_core.encoders.audio_resnet", *VIEW_MODULES),
    nodes=_nodes,
    inputs=_inputs,
    settings=_settings,
    work=extract_or_take,
    cleanable=("*.parquet",),
)
