"""A corpus of 1,000 videos to which one is added: shards cut, shards extracted, and time, against cutting all again.

    PYTHONPATH=. python benchmarks/append.py OUT [--videos 1000] [--clips-per-shard 100]

OUT is a folder for some 100 MB. The videos are audio-visual digits of about a second, the encoders those of the preset
`tiny`. A shard counts as cut or extracted if its file is not the same one (by inode) as before.
"""

import argparse
import time
from pathlib import Path
from typing import Any

from shards.corpus.index import shard_names
from shards.digits.corpus import write_digits
from shards.digits.settings import DigitsSettings
from shards.store.manifest import missing_files, read_manifest
from xdc_core.config.load import FILE_NAME, load_preset, parse_config
from xdc_core.config.write import commented_yaml
from xdc_core.graph.run_stage import run_stage
from xdc_core.runs.node import SHARD, Node
from xdc_core.runs.run import Run, open_run

MODALITIES = ("video", "audio")
EXTRACTS = [Node("extract", modality, 0) for modality in MODALITIES]
NODES = [SHARD, *(Node("init", modality) for modality in MODALITIES), *EXTRACTS]


def write_run(root: Path, videos: Path, clips_per_shard: int, append: bool) -> Run:
    """Return a run with nothing but its configuration."""
    values: dict[str, Any] = load_preset("tiny")
    values["corpus"] = values.get("corpus", {}) | {"path": "corpus", "videos": str(videos), "append": append}
    values["corpus"]["clips_per_shard"] = clips_per_shard
    values["runs_on"] = values.get("runs_on", {}) | {"device": "cpu"}
    root.mkdir(parents=True, exist_ok=True)
    (root / FILE_NAME).write_text(commented_yaml(parse_config(values, "the benchmark")), encoding="utf-8")
    return open_run(root)


def files_of(run: Run) -> dict[str, int]:
    """Return the inode of each shard's tar and features, by path."""
    places = [run.corpus, *map(run.directory, EXTRACTS)]
    names = [path for place in places if place.exists() for path in (*place.glob("[0-9]*.tar"), *place.glob("data/*"))]
    return {str(path): path.stat().st_ino for path in names}


def timed(run: Run) -> dict[str, float]:
    """Run the nodes, and return the seconds of each."""
    seconds = {}
    for node in NODES:
        clock = time.monotonic()
        run_stage(run, node)
        seconds[str(node)] = time.monotonic() - clock
    return seconds


def new_files(run: Run, before: dict[str, int]) -> dict[str, int]:
    """Return how many shards were cut, and extracted by modality: those whose file was made since `before`."""
    made = [Path(path) for path, inode in files_of(run).items() if before.get(path) != inode]
    counts = {"shard": sum(path.suffix == ".tar" for path in made)}
    for node in EXTRACTS:
        counts[str(node)] = sum(path.is_relative_to(run.directory(node)) for path in made)
    return counts


def main() -> None:
    """Print a table."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("out", type=Path)
    arguments.add_argument("--videos", type=int, default=1000)
    arguments.add_argument("--clips-per-shard", type=int, default=100)
    given = arguments.parse_args()
    out: Path = given.out.resolve()
    digits = write_digits(out / "digits", DigitsSettings(clips=given.videos + 1, workers=2))
    lines = digits.read_text(encoding="utf-8").splitlines(keepends=True)
    for append in (True, False):
        videos = out / "digits" / f"listed-{append}.csv"
        videos.write_text("".join(lines[:-1]), encoding="utf-8")
        run = write_run(out / f"run-{append}", videos, given.clips_per_shard, append)
        first, before = timed(run), files_of(run)
        videos.write_text("".join(lines), encoding="utf-8")
        second = timed(run)
        manifest = read_manifest(run.corpus)
        assert manifest is not None
        assert (manifest.rows, missing_files(run.corpus, manifest)) == (given.videos + 1, [])
        print(f"\ncorpus.append: {append}, {len(shard_names(run.corpus))} shards after one video was added\n")
        print("| stage | all of it, s | after one video, s | ratio | shards made |")
        print("|---|---|---|---|---|")
        made = new_files(run, before)
        for node, seconds in first.items():
            ratio = second[node] / seconds
            print(f"| {node} | {seconds:.1f} | {second[node]:.1f} | {ratio:.2f} | {made.get(node, '')} |", flush=True)


if __name__ == "__main__":
    main()
