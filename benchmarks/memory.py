"""Peak memory of extract, cluster and label as the corpus grows. What should be flat is flat, or this shows it.

    python benchmarks/memory.py RUN [--rows 1000 100000]

RUN is a run with a finished corpus (that of `make demo`, say). Its first shard is multiplied: every synthetic shard
is a hard link to its tar with an index of new keys, so each row is a real clip that is really decoded. k-means gets a
sample of 1,000 clips, because its memory grows with the sample by intent. Every stage runs alone in a new process.
"""

import argparse
import datetime
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pyarrow as pa

from shards.commit import Manifest, commit, write_text
from shards.index import read_index, shard_name, write_parquet
from shards.plan import STAGE_VERSION
from shards.settings import stored_part
from xdc_core.config import Config, commented_yaml
from xdc_core.run import Run, open_run

STAGES = (
    ("init", "video"), ("init", "audio"),
    ("extract", "video"), ("extract", "audio"),
    ("cluster", "video"), ("cluster", "audio"),
    ("label", "video"), ("label", "audio"),
)  # fmt: skip


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
        write_parquet(partial / f"{name}.parquet", part.set_column(0, "key", keys))
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


def peak_mb(run: Run, stage: str, modality: str) -> tuple[float, float]:
    """Peak resident memory in MB and wall seconds of one stage in a process of its own."""
    started = datetime.datetime.now()
    command = [sys.executable, "-m", "xdc_core", stage, str(run.root), modality, *([] if stage == "init" else ["0"])]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{stage}.{modality} failed with status {status}")
    return usage.ru_maxrss / 1024, (datetime.datetime.now() - started).total_seconds()


def main() -> None:
    """Print a table: stage, MB and seconds at every size, and the ratio of the largest to the smallest."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--rows", type=int, nargs="+", default=[1000, 100_000])
    arguments = parser.parse_args()
    found: dict[tuple[str, str], list[tuple[float, float]]] = {stage: [] for stage in STAGES}
    source = open_run(arguments.run)
    # Beside the corpus: hard links do not cross file systems.
    with tempfile.TemporaryDirectory(dir=source.corpus.parent) as folder:
        for rows in arguments.rows:
            run = multiply(source, rows, Path(folder) / str(rows))
            for stage in STAGES:
                found[stage].append(peak_mb(run, *stage))
    print("stage          " + "".join(f"{rows:>12} rows    " for rows in arguments.rows) + "   MB ratio")
    for (stage, modality), values in found.items():
        cells = "".join(f"{mb:>9.0f} MB {seconds:>6.1f} s" for mb, seconds in values)
        print(f"{stage + '.' + modality:<15}{cells}{values[-1][0] / values[0][0]:>12.2f}")


if __name__ == "__main__":
    main()
