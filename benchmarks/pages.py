"""A long run with many clusters, and how its pages behave in a browser: sizes, times, what is loaded.

    PYTHONPATH=. python benchmarks/pages.py RUN [--clips 10000] [--rounds 20] [--k 512] [--out FOLDER]

RUN is a run with a finished corpus (that of `make demo`, say). Its first shard is multiplied: every other shard is a
hard link to its tar with an index of new keys, so each row is a real clip. Features are invented: a place for every
label, and noise that shrinks from round to round. All the rest, k-means, pseudo-labels, short trainings and reports
with their media, is done by the ordinary stages. Needs playwright and Chromium.
"""

import argparse
import datetime
import json
import os
import shutil
import statistics
import tempfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from shards.corpus.index import index_name, label_columns, read_index, shard_name, shard_names
from shards.corpus.plan import STAGE_VERSION
from shards.settings import stored_part
from shards.store.build import Outcome
from shards.store.commit import commit
from shards.store.files import part_name, write_text
from shards.store.manifest import Manifest
from shards.store.parquet import write_parquet
from shards.store.stage import Task
from xdc_core.config.load import FILE_NAME, parse_config
from xdc_core.config.schema import Config
from xdc_core.config.write import commented_yaml
from xdc_core.data.features import write_features
from xdc_core.graph.run_stage import run_stage
from xdc_core.graph.stages import STAGES, all_nodes
from xdc_core.runs.node import SHARD, Node
from xdc_core.runs.run import Run, open_run

WIDTH = 64
# First paint of the gallery: the cards that can be seen are there and one picture has come.
SHOWN = "document.querySelector('.card') && document.querySelector('.clip .picture')?.style.backgroundImage"


def multiply(run: Run, rows: int, root: Path) -> Run:
    """A run on a corpus of `rows` clips made from the first shard of `run`'s corpus."""
    corpus, partial = root / "corpus", root / ".corpus.partial"
    partial.mkdir(parents=True)
    index = read_index(run.corpus, shard_name(0))
    for number in range(-(-rows // len(index))):
        name = shard_name(number)
        os.link(run.corpus / "000000.tar", partial / f"{name}.tar")
        part = index.slice(0, min(len(index), rows - number * len(index)))
        keys = pa.array([f"{key}-{number}" for key in part["key"].to_pylist()])
        write_parquet(partial / index_name(name), part.set_column(0, "key", keys))
    now = datetime.datetime.now(datetime.UTC).isoformat()
    settings = run.config.corpus
    manifest = Manifest(
        stage="shard",
        version=STAGE_VERSION,
        fingerprint=f"synthetic-{rows}",
        settings=stored_part(settings),
        rows=rows,
        summary={"clips": rows, "sources": rows, "rejects": {}, "hours": None},
        seconds=0,
        started=now,
        finished=now,
    )
    commit(partial, corpus, manifest)
    width = 64
    small = run.config.cluster.model_copy(update={"sample_mb": 1000 * width * 4 / 1e6})
    place = settings.model_copy(update={"path": "corpus", "videos": None})
    config: Config = run.config.model_copy(update={"corpus": place, "cluster": small, "rounds": 1})
    write_text(root / "xdc.yaml", commented_yaml(config))
    return open_run(root)


def invented_features(task: Task[Any]) -> Outcome:
    """In place of `extract`."""
    corpus = task.directory(SHARD)
    column = next(iter(label_columns(corpus)))
    places = np.random.default_rng(0).normal(size=(64, WIDTH)).astype(np.float32)
    known: dict[str, int] = {}
    rows = 0
    for number, shard in enumerate(shard_names(corpus)):
        index = read_index(corpus, shard, ["key", column])
        labels = [known.setdefault(label, len(known)) for label in index[column].to_pylist()]
        noise = np.random.default_rng([number, task.round, len(task.about)])
        features = places[labels] + 6 / (1 + task.round / 4) * noise.normal(size=(len(labels), WIDTH))
        write_features(task.out / part_name(shard), index["key"].to_pylist(), features.astype(np.float32))
        rows += len(labels)
    return Outcome(rows, 0, {"width": WIDTH, "device": "none"})


def long_run(source: Run, root: Path, clips: int, rounds: int, k: int) -> Run:
    """The run, not yet done."""
    run = multiply(source, clips, root)
    values = run.config.model_dump()
    values["rounds"], values["evaluate"] = rounds, {}
    values["cluster"] |= {"k": {"video": k, "audio": k, "joint": k}, "sample_mb": 1000}
    values["train"] |= {"clips": 8 * values["train"]["batch"], "log_every": 1}
    values["report"] = {"track": []}
    write_text(root / FILE_NAME, commented_yaml(parse_config(values, "the benchmark's settings")))
    return open_run(root)


def do(run: Run) -> dict[int, float]:
    """All nodes; returns the processor seconds of every report."""
    STAGES["extract"] = replace(STAGES["extract"], work=invented_features)
    seconds = {}
    for node in all_nodes(run.config):
        began = time.process_time()
        run_stage(run, node, corpus_read_as=None)
        if node.stage == "report":
            assert node.round is not None
            seconds[node.round] = time.process_time() - began
            print(f"round {node.round} of {run.config.rounds}", flush=True)
    return seconds


def opened(page: Path, wait: str, times: int) -> dict[str, Any]:
    """Medians over fresh browser contexts: seconds until the page is loaded, and until `wait` holds."""
    from playwright.sync_api import sync_playwright

    loads, shows, loaded = [], [], 0
    with sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        for _ in range(times):
            tab = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
            asked: list[str] = []
            tab.on("requestfinished", lambda request, asked=asked: asked.append(request.url))
            began = time.monotonic()
            tab.goto(page.resolve().as_uri(), wait_until="load")
            loads.append(time.monotonic() - began)
            tab.wait_for_function(wait)
            shows.append(time.monotonic() - began)
            loaded = len(asked)
            tab.context.close()
        browser.close()
    return {"load_s": statistics.median(loads), "shown_s": statistics.median(shows), "requests": loaded}


def searched(page: Path) -> float:
    """Seconds from a part of a key typed into the search box to the 50 clips that are shown of those that have it."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        tab = browser.new_page()
        tab.goto(page.resolve().as_uri())
        began = time.monotonic()
        tab.fill("#query", "00")
        tab.wait_for_function("document.querySelectorAll('#found tr').length === 51")
        seconds = time.monotonic() - began
        browser.close()
    return seconds


def size_mb(folder: Path) -> float:
    """Of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def measure(run: Run, seconds: dict[int, float], times: int) -> list[dict[str, Any]]:
    """A row a page."""
    rows = []
    last = run.config.rounds
    for number in sorted({0, last // 2, last}):
        folder = run.directory(Node("report", None, number))
        page = folder / "report.html"
        row = {"page": f"round {number}", "html_mb": page.stat().st_size / 1e6, "folder_mb": size_mb(folder)}
        row |= {"files": sum(1 for _ in (folder / "media").iterdir()), "report_cpu_s": seconds.get(number)}
        rows.append(row | opened(page, SHOWN, times) | {"search_s": searched(page)})
    page = run.root / "overview.html"
    row = {"page": "overview", "html_mb": page.stat().st_size / 1e6, "folder_mb": page.stat().st_size / 1e6}
    rows.append(row | {"files": 0, "report_cpu_s": None} | opened(page, "true", times) | {"search_s": None})
    return rows


def main() -> None:
    """Print a table; --out keeps the run, and pages.json with the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--clips", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--k", type=int, default=512)
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--out", type=Path, help="keep the run here; must be on the corpus's file system")
    arguments = parser.parse_args()
    source = open_run(arguments.run)
    with tempfile.TemporaryDirectory(dir=source.corpus.parent) as folder:
        make = partial(long_run, source, clips=arguments.clips, rounds=arguments.rounds, k=arguments.k)
        root = arguments.out or Path(folder) / "run"
        run = open_run(root) if (root / FILE_NAME).exists() else make(root)
        rows = measure(run, do(run), arguments.times)
        if arguments.out:
            write_text(root / "pages.json", json.dumps(rows, indent=2))
    print(f"{'page':<10}" + "".join(f"{name:>14}" for name in list(rows[0])[1:]))
    for row in rows:
        cells = (
            "" if value is None else f"{value:.2f}" if isinstance(value, float) else value
            for value in list(row.values())[1:]
        )
        print(f"{row['page']:<10}" + "".join(f"{cell:>14}" for cell in cells))


if __name__ == "__main__":
    main()
