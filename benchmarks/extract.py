"""Extraction against its two limits: decoding alone, and the encoder alone on a batch in memory.

    PYTHONPATH=. python benchmarks/small_run.py RUN
    PYTHONPATH=. python benchmarks/extract.py RUN [--workers 1] [--threads 1] [--decoding]

Everyone is timed from the first batch on; the start (worker processes, first batch) is printed apart. With workers the
limit is the slower of the two, for they work side by side; without, the sum of both times. The stage also writes its
features. The encoder alone gets views in memory and normalises them, as the stage does. --decoding leaves all but
decoding out: for large encoders where there is no GPU.
"""

import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from side_by_side import Contest, Pace, contest, parser, record, show

from shards.corpus.index import index_path, shard_names
from shards.store.parquet import count_rows
from xdc_core.compute.device import choose_device
from xdc_core.compute.threads import thread_count
from xdc_core.config.views import views_of
from xdc_core.data.clips import ClipBatch, ClipViews, ShardRows
from xdc_core.data.encode import load_encoding
from xdc_core.data.loader import batches_by_shard, load_views
from xdc_core.runs.node import Node
from xdc_core.runs.run import Run, open_run
from xdc_core.runs.task import task_of
from xdc_core.stages.extract import EXTRACT, extract

OURS, DECODING, ENCODING = "xdc extract", "decoding alone", "encoder alone"


def main() -> None:
    """Print a table a modality, and the rate as a share of the limit."""
    arguments = parser(__doc__)
    arguments.add_argument("run", type=Path)
    arguments.add_argument("--workers", type=int, default=1)
    arguments.add_argument("--threads", type=int, default=1)
    arguments.add_argument("--decoding", action="store_true", help="decoding alone")
    given = arguments.parse_args()
    source = open_run(given.run)
    config = source.config.model_copy(
        update={
            "extract": source.config.extract.model_copy(update={"workers": given.workers}),
            "runs_on": source.config.runs_on.model_copy(update={"threads": given.threads}),
        }
    )
    run = Run(source.root, config)
    contests, shares, starts = [], {}, {}
    for modality in ("video", "audio"):
        found, start_s = extraction(run, modality, given.turns, given.decoding)
        show(found, DECODING if given.decoding else OURS)
        contests.append(found)
        if given.decoding:
            continue
        shares[modality] = share_of_limit(found, bool(given.workers))
        starts[modality] = start_s
        limit = "the slower of the two" if given.workers else "one after the other"
        print(f"  {shares[modality]:.3f} of {limit}; {start_s:.2f} s before the first batch\n", flush=True)
    record(given.out, contests=contests, shares=shares, start_s=starts, workers=given.workers, threads=given.threads)


def share_of_limit(found: Contest, side_by_side: bool) -> float:
    """Median over the turns of the limit's time over ours."""
    limits = [
        max(decoding, encoding) if side_by_side else decoding + encoding
        for decoding, encoding in zip(found.seconds[DECODING], found.seconds[ENCODING], strict=True)
    ]
    return statistics.median(limit / ours for limit, ours in zip(limits, found.seconds[OURS], strict=True))


def extraction(run: Run, name: str, turns: int, only_decoding: bool) -> tuple[Contest, float]:
    """The contest of one modality, and the median of the seconds before our first batch (0 without ours)."""
    config, node = run.config, Node("extract", name, 0)
    views, device = views_of(config, name), choose_device(config.runs_on).device
    sizes = {shard: count_rows(index_path(run.corpus, shard), "shard") for shard in shard_names(run.corpus)}
    clips = sum(sizes.values())
    encoding_of = load_encoding(run.directory(Node("init", name)), views, config.extract, device)
    rows = ShardRows(run.corpus, sizes, views.modality)

    def batches() -> Iterator[ClipBatch]:
        items = batches_by_shard(rows.spans, config.extract.batch)
        return load_views(ClipViews(run.corpus, rows, views), items, config.extract.workers, device)

    first = next(batches())
    assert first.views is not None
    starts: list[float] = []

    def ours() -> float:
        with tempfile.TemporaryDirectory() as out:
            pace = Pace()
            extract(task_of(EXTRACT, run, node, Path(out), lambda done, *_: pace.note(done)))
            starts.append(pace.start_s)
        return pace.seconds(clips)

    def paced(batches: Iterator[ClipBatch]) -> float:
        pace, done = Pace(), 0
        for batch in batches:
            done += len(batch.rows)
            pace.note(done)
        return pace.seconds(clips)

    def encoding() -> Iterator[ClipBatch]:
        torch.set_num_threads(thread_count(config.runs_on))
        for _ in range(max(3, -(-clips // config.extract.batch))):
            batch: Any = first.views
            encoding_of.encode(batch).cpu()
            yield first

    contestants = {
        OURS: ours,
        DECODING: lambda: paced(batches()),
        ENCODING: lambda: paced(encoding()),
    }
    title = f"extract.{name} ({views.settings.encoder}, views of {'x'.join(map(str, first.views.shape[1:]))})"
    if only_decoding:
        return contest(title, "clips", clips, {DECODING: contestants[DECODING]}, turns), 0.0
    found = contest(title, "clips", clips, contestants, turns)
    return found, statistics.median(starts)


if __name__ == "__main__":
    main()
