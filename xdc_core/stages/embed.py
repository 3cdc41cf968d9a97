"""The embed stage: features of equally spaced views of every recording of a data set, shard by shard."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from shards.reject import Reject
from shards.store.build import Outcome
from shards.store.executor import Advance, run_units
from shards.store.files import part_name
from shards.store.node import Node
from shards.store.receipt import Receipt, new_shard, receipts_of
from shards.store.stage import Stage, Task
from shards.store.units import add_up
from xdc_core.compute.threads import thread_count
from xdc_core.config.evaluation import CORPUS
from xdc_core.config.schema import Config, ExtractSettings, RunsOn
from xdc_core.config.views import encoding_settings, views_of
from xdc_core.data.features import write_features
from xdc_core.modalities.registry import VIEW_MODULES
from xdc_core.modalities.view import Views
from xdc_core.runs.node import encoder_node
from xdc_core.runs.run import Run
from xdc_core.runs.task import job_of, task_of_document
from xdc_core.stages.evaluate import due_evaluations


@dataclass(frozen=True)
class Embedding:
    """The part of the configuration for the stage. views_each: views per recording."""

    views: Views
    views_each: int
    extract: ExtractSettings
    runs_on: RunsOn

    def hashed(self) -> dict[str, Any]:
        """Return the settings that decide the features."""
        view = self.views.hashed(training=False)
        return {"views": self.views_each, "view": view, **encoding_settings(self.extract)}


def embed(task: Task[Embedding]) -> Outcome:
    """Write `data/<shard>.parquet` with columns key, frame (the view's first) and feature, one row per view, in units.

    Shards that already exist are kept. Clips that do not decode are listed in `<shard>.rejects.json`.

    Raises:
        StageError: a feature is not finite.
    """
    from xdc_core.data.rows import corpus_rows
    from xdc_core.data.view_starts import labels_by_row, starts_by_row

    settings, corpus = task.settings, task.directory(Node("data", task.about))
    rows = corpus_rows(corpus, settings.views.modality, task.root)
    # Determined here for all shards, because the clips of a recording are in several of them.
    starts = starts_by_row(rows, settings.views.frames, settings.views_each, labels_by_row(corpus))
    by_shard = {shard: starts[span] for shard, span in rows.by_shard()}
    sizes = {shard: sum(map(len, own)) for shard, own in by_shard.items()}
    on_gpu = settings.runs_on.device != "cpu"
    job = job_of(task, "xdc_core.stages.embed:embed_shards", "torch", on_gpu, starts=by_shard)
    run_units(task.executor, job, sizes, 1, task.progress, "views")
    written, rejected, notes = add_up(receipts_of(task.out, sizes), sizes)
    return Outcome(written, rejected, notes, tuple(map(part_name, sizes)))


def embed_shards(arguments: dict[str, Any], shards: list[str], advance: Advance) -> Iterator[Receipt]:
    """Store the features of some shards' views, and yield the receipts: the work of a unit. Rejects are views, too."""
    import torch

    from xdc_core.compute.device import choose_device
    from xdc_core.data.clips import ClipItem, ClipViews, ShardRows
    from xdc_core.data.encode import check_finite, encode_shards, load_encoding, write_rejects

    task = task_of_document(EMBED, arguments["task"])
    node, settings, corpus = task.node, task.settings, task.directory(Node("data", task.about))
    torch.set_num_threads(thread_count(settings.runs_on))
    device = choose_device(settings.runs_on)
    modality = settings.views.modality
    encoder = task.directory(encoder_node(modality.name, task.round))
    encoding = load_encoding(encoder, corpus, settings.views, settings.extract, device.device)
    rows = ShardRows(corpus, {shard: len(arguments["starts"][shard]) for shard in shards}, modality)
    starts = [own for shard in shards for own in arguments["starts"][shard]]
    wanted = {shard: [number for number in span if starts[number]] for shard, span in rows.spans.items()}
    clips = ClipViews(corpus, rows, settings.views, settings.runs_on.clip_cache)
    batch = max(1, settings.extract.batch // settings.views_each)  # This many clips have about `extract.batch` views.

    def item(number: int) -> ClipItem:
        return ClipItem(number, tuple(starts[number]))

    for shard, encoded in encode_shards(encoding, clips, wanted, batch, advance, item):
        first, stored = rows.spans[shard].start, rows.of(shard).keys
        key_of = {number: stored[number - first].as_py() for number in (*encoded.rows, *encoded.rejects)}
        keys = [key_of[number] for number in encoded.rows for _ in starts[number]]
        frames = [frame for number in encoded.rows for frame in starts[number]]
        check_finite(node, keys, encoded.features)
        rejects = [
            Reject(corpus.name, node.name, "damaged", reason, key_of[number])
            for number, reason in encoded.rejects.items()
        ]
        with new_shard(task.out, shard) as new:
            write_rejects(new.folder, shard, rejects)
            path = new.folder / part_name(shard)
            write_features(path, keys, encoded.features, frame=pa.array(frames, pa.int32()))
            new.rows, new.rejects = len(keys), sum(len(starts[number]) for number in encoded.rejects)
            new.notes = {"device": str(device)}
        yield new.stored


def embedded_data_sets(config: Config, evaluations: list[str]) -> list[str]:
    """Return the data sets whose features these evaluations need."""
    chosen = [config.evaluate[name] for name in evaluations]
    frozen = {each.data for each in chosen if each.data != CORPUS and each.protocol != "all"}
    return [name for name in config.datasets if name in frozen]


def _nodes(config: Config, number: int | None) -> list[Node]:
    if number is None:
        return []
    return [Node("embed", name, number) for name in embedded_data_sets(config, due_evaluations(config, number))]


def _inputs(config: Config, node: Node) -> list[Node]:
    assert node.round is not None
    data = config.datasets[str(node.modality)]
    return [Node("data", node.modality), encoder_node(data.modality, node.round)]


def _settings(config: Config, node: Node) -> Embedding:
    data = config.datasets[str(node.modality)]
    return Embedding(views_of(config, data.modality, data.frames), data.views, config.extract, config.runs_on)


def _outside(run: Run, node: Node) -> dict[str, str]:
    """Return a mark if the data set's files have parts with different labels."""
    from xdc_core.data.view_starts import mark_of_parts

    return mark_of_parts(run.directory(Node("data", node.modality)))


EMBED: Stage[Config, Run, Embedding] = Stage(
    name="embed",
    version=1,
    summary="Compute features of a data set's recordings with the encoder at the start of a round.",
    unit="view",
    folder="embeddings",
    of="name",
    each_round=True,
    library="torch",
    modules=("xdc_core.data.encode", *VIEW_MODULES),
    nodes=_nodes,
    inputs=_inputs,
    settings=_settings,
    work=embed,
    outside=_outside,
    cleanable=("*.parquet",),
)
