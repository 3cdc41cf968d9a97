"""What many sources cost a flow's process and `xdc status`: seconds, and bytes of memory for a source.

    PYTHONPATH=. python benchmarks/sources.py [--sources 100000] [--few 1000] [--shards 1] [--kinds folder manifest]

The sources are empty files, and the corpus is written from what a survey would have found. Each way to ask is measured
in a new process, after its imports; memory is the growth of its resident set to its peak. `xdc status` is a process of
its own: its seconds and peak with --sources and with --few of them.

    fresh      what a flow asks before a round, with the digest that is stored beside the corpus
    first      the same where no digest is stored: every source is compared with sources.parquet
    changed    what a flow asks after a file was changed: the stage will compare
    compared   what `xdc status` asks after a file was changed
    listed     for comparison: all sources listed and surveyed in memory, as the stage `shard` has them
    status     the command `xdc status`, everything committed being fresh
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
from side_by_side import parser, record

from shards.corpus.index import index_name, shard_name
from shards.corpus.known import known_sources, survey_notes
from shards.corpus.listing import list_corpus
from shards.corpus.plan import corpus_fingerprint
from shards.corpus.seen import corpus_fingerprint_now, seen_file
from shards.corpus.survey import recall
from shards.corpus.write import SOURCES_SCHEMA
from shards.settings import stored_part
from shards.sources.surveyed import Surveyed, survey_columns
from shards.store.build import Identity, Outcome, build, reusable
from shards.store.files import write_text
from shards.store.parquet import write_parquet
from xdc_core.config.load import FILE_NAME, load_preset, parse_config
from xdc_core.config.write import commented_yaml
from xdc_core.graph.fingerprints import Fingerprints
from xdc_core.graph.run_stage import all_fresh
from xdc_core.graph.state import node_state
from xdc_core.runs.node import SHARD
from xdc_core.runs.run import open_run

FOLDER = 1000  # Files in a folder.


def make_run(root: Path, sources: int, shards: int, kind: str) -> None:
    """Write empty videos, a run on them, and its committed corpus without clips."""
    names = [f"{number // FOLDER:06d}/{number:09d}.mp4" for number in range(sources)]
    for number, name in enumerate(names):
        if number % FOLDER == 0:
            (root / "videos" / name).parent.mkdir(parents=True)
        (root / "videos" / name).touch()
    videos = root / "videos"
    if kind == "manifest":
        videos /= "manifest.csv"
        rows = (f"{name},train,class {number % 400}\n" for number, name in enumerate(names))
        videos.write_text("path,split,label\n" + "".join(rows))
    values = load_preset("tiny")
    values["corpus"] = values.get("corpus", {}) | {"path": "corpus", "videos": str(videos.relative_to(root))}
    write_text(root / FILE_NAME, commented_yaml(parse_config(values, "the benchmark's settings")))
    run = open_run(root)
    surveyed = {}
    for number, name in enumerate(names):
        state = (root / "videos" / name).stat()
        surveyed[name] = Surveyed(name, state.st_size, state.st_mtime_ns, f"{number + 1:064x}", probe_version=2)
    settings = run.config.corpus
    listing = list_corpus(videos, settings.label_from_folder)
    identity = Identity(
        "shard",
        3,
        corpus_fingerprint(settings, listing, survey_columns(surveyed.values())),
        settings=stored_part(settings),
    )

    def work(out: Path) -> Outcome:
        table = pa.Table.from_pylist([asdict(entry) | {"asked_s": []} for entry in surveyed.values()], SOURCES_SCHEMA)
        write_parquet(out / "sources.parquet", table)
        for number in range(shards):
            shard = shard_name(number)
            for name in (f"{shard}.tar", index_name(shard), f"{shard}.rejects.json"):
                (out / name).parent.mkdir(exist_ok=True)
                (out / name).touch()
        return Outcome(0)

    build(run.corpus, identity, work)


def memory(name: str) -> int:
    """Bytes, of this process: VmRSS, or VmHWM since the last reset."""
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return 1024 * int(found[1])


def measure(root: Path, way: str) -> None:
    """Ask once, and print seconds and the growth of memory as JSON."""
    run = open_run(root)
    # What is imported or made once: the same question about a corpus that does not exist.
    corpus_fingerprint_now(root / "none", root / "xdc.yaml.csv", run.config.corpus)
    Path("/proc/self/clear_refs").write_text("5")
    before, began, used = memory("VmRSS"), time.perf_counter(), time.process_time()
    if way == "listed":
        assert run.videos is not None
        settings = run.config.corpus
        listing = list_corpus(run.videos, settings.label_from_folder)
        notes = survey_notes(run.corpus, settings.modalities)
        known, _ = recall(listing, known_sources(run.corpus, settings.modalities), notes, settings)
        state = "fresh" if reusable(run.corpus, corpus_fingerprint(settings, listing, known)) else "stale"
    elif way == "compared":
        state = node_state(run, SHARD, Fingerprints(run))[0]
    else:
        state = "fresh" if all_fresh(run, [SHARD]) else "stale"
    costs = {"seconds": time.perf_counter() - began, "cpu_seconds": time.process_time() - used}
    print(json.dumps({"state": state, **costs, "bytes": memory("VmHWM") - before}))


def ask(root: Path, way: str) -> dict[str, Any]:
    """Ask in a new process."""
    command = [sys.executable, __file__, "--measure", str(root), way]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["state"] == ("stale" if way in ("changed", "compared") else "fresh"), found
    return found


def status(root: Path) -> dict[str, Any]:
    """The command `xdc status`."""
    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "flows.cli", "status", str(root)], stdout=subprocess.DEVNULL)
    _, code, usage = os.wait4(process.pid, 0)
    assert code == 0
    cpu = usage.ru_utime + usage.ru_stime
    return {"seconds": time.perf_counter() - began, "cpu_seconds": cpu, "bytes": usage.ru_maxrss * 1024}


def _times(cost: dict[str, Any]) -> str:
    return f"{cost['seconds']:>8.2f} s ({cost['cpu_seconds']:.2f} s of processors)"


def main() -> None:
    """Print a table for each kind of sources."""
    if sys.argv[1:2] == ["--measure"]:
        measure(Path(sys.argv[2]), sys.argv[3])
        return
    arguments = parser(__doc__)
    arguments.add_argument("--sources", type=int, default=100_000)
    arguments.add_argument("--few", type=int, default=1000)
    arguments.add_argument("--shards", type=int, default=1)
    arguments.add_argument("--kinds", nargs="+", default=["folder", "manifest"])
    given = arguments.parse_args()
    found: dict[str, Any] = {}
    for kind in given.kinds:
        with tempfile.TemporaryDirectory() as folder:
            many, few = Path(folder) / "many", Path(folder) / "few"
            make_run(many, given.sources, given.shards, kind)
            make_run(few, given.few, 1, kind)
            print(f"{given.sources:,} sources in a {kind}, {given.shards:,} shards", flush=True)
            costs: dict[str, Any] = {}
            for way in ("listed", "first", "fresh"):  # `first` stores the digest.
                costs[way] = ask(many, way)
                assert seen_file(many / "corpus").exists() == (way != "listed")
            ask(few, "first")
            whole, part = status(many), status(few)
            costs["status"] = whole | {"bytes": whole["bytes"] - part["bytes"], "few": part}
            os.utime(many / "videos" / "000000" / "000000000.mp4", ns=(1, 1))
            for way in ("changed", "compared"):
                costs[way] = ask(many, way)
            for way, cost in costs.items():
                each = cost["bytes"] / given.sources
                print(f"  {way:<10}{_times(cost)}{each:>8.1f} bytes a source")
            print(f"  {'status':<10}{_times(part)} with {given.few:,} sources", flush=True)
            found[kind] = costs
    record(given.out, sources=given.sources, shards=given.shards, kinds=found)


if __name__ == "__main__":
    main()
