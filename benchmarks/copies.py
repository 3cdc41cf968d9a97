"""How many planted copies `xdc duplicates` finds among real videos, at the threshold that it chooses.

    PYTHONPATH=. python benchmarks/copies.py VIDEOS OUT [--views 30]

From the middle of every video with sound that is long enough a clip of 3 s is taken. Every fourth video is encoded
again: with a twentieth less at each side, much coarser, or unchanged with a clip that begins 0.2 s later. Encoders of
the preset `tiny` learn for one round from all clips. Videos that repeat each other count as wrong.
"""

import argparse
import csv
import json
from pathlib import Path

import av
import pyarrow.parquet as pq

from flows.cli.using.near_duplicates import duplicates_of
from shards.corpus.index import read_whole_index
from tests.runs import changed, write_run
from tests.xdc_core.planted import KINDS, SHIFT_S, encode_again
from xdc_core.config.load import load_preset, parse_config
from xdc_core.graph.run_stage import run_stage
from xdc_core.graph.stages import round_nodes, setup_nodes
from xdc_core.runs.run import Run

SECONDS, EVERY = 3.0, 4


def seconds_of(video: Path) -> float:
    """Return the seconds of a file, 0 if it lacks picture, sound or a duration, or is no media file."""
    try:
        with av.open(str(video)) as source:
            return (source.duration or 0) / 1e6 if source.streams.audio and source.streams.video else 0.0
    except av.FFmpegError:
        return 0.0


def planted(videos: Path, out: Path) -> Path:
    """Write copies and a manifest. The column label_copy_of names the video of which a clip is a copy."""
    rows = []
    (out / "copies").mkdir(parents=True, exist_ok=True)
    lasted = {path.resolve(): seconds_of(path) for path in sorted(videos.rglob("*")) if path.is_file()}
    whole = {video: seconds for video, seconds in lasted.items() if seconds > SECONDS + 2}
    for number, (video, seconds) in enumerate(whole.items()):
        start_s = round(seconds / 2 - SECONDS / 2, 2)
        rows.append({"path": video, "start_s": start_s, "end_s": start_s + SECONDS, "label_copy_of": ""})
        if number % EVERY == 0:
            kind = KINDS[number // EVERY % len(KINDS)]
            copy = out / "copies" / f"{number}.mp4"
            encode_again(video, copy, kind, own_times=True)
            first = start_s + (SHIFT_S if kind == "shift" else 0.0)
            rows.append({"path": copy, "start_s": first, "end_s": first + SECONDS, "label_copy_of": str(video)})
    with (out / "planted.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return out / "planted.csv"


def learnt(out: Path, manifest: Path) -> Run:
    """Return a run that has learnt for one round."""
    changes = {
        "rounds": 1,
        "corpus": {"path": str(out / "corpus"), "videos": str(manifest), "clip_seconds": SECONDS},
        "cluster": {"k": {"video": 8, "audio": 8}},
        "train": {"clips": 1500},
        "runs_on": {"device": "cpu"},
    }
    values = parse_config(load_preset("tiny"), "preset tiny").model_dump()
    run = write_run(out / "run", parse_config(changed(values, changes), "the benchmark's settings"))
    for node in (*setup_nodes(run.config), *round_nodes(run.config, 0)):
        if node.stage != "report":
            run_stage(run, node)
    return run


def main() -> None:
    """Print precision and recall, and the pairs that are not copies, as JSON."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("videos", type=Path)
    options.add_argument("out", type=Path)
    options.add_argument("--views", type=int, help="as of xdc duplicates")
    arguments = options.parse_args()
    out = arguments.out.resolve()
    run = learnt(out, planted(arguments.videos, out))
    found = duplicates_of(run.root, None, None, None, False, out / "pairs.html", out / "duplicates", arguments.views)
    rows = read_whole_index(run.corpus, ["key", "label_copy_of", "source"]).to_pylist()
    original = {row["key"]: row["label_copy_of"] or str((run.corpus.parent / row["source"]).resolve()) for row in rows}
    copies = sum(bool(row["label_copy_of"]) for row in rows)
    pairs = [(row["key_a"], row["key_b"]) for row in pq.ParquetFile(found["all_pairs"]).read().to_pylist()]
    others = [pair for pair in pairs if original[pair[0]] != original[pair[1]]]
    hits = len(pairs) - len(others)
    answer = {"clips": len(rows), "copies": copies, "threshold": found["threshold"], "pairs": len(pairs)}
    answer |= {"precision": hits / len(pairs) if pairs else None, "recall": hits / copies, "others": others}
    print(json.dumps(answer, indent=1))


if __name__ == "__main__":
    main()
