"""Plan a run on paper: 240 thousand, 2 million and 65 million videos, on 1, 8 and 64 GPUs, from the rates in a file.

    python benchmarks/plan.py [benchmarks/rates.json] [--out plan.json]

The file has measured rates, each with the command that measured it, cited ones, and assumptions, each with its reason.
Nothing here measures: the result is multiplication, to find out which stage is the bottleneck and what would move it.
Change the file to plan with other rates. The arithmetic is that of `xdc plan` (xdc_core/planning/arithmetic.py), which
measures the rates of a run itself.
"""

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from xdc_core.planning.arithmetic import HOUR, feature_bytes, kmeans_s, shards_of, span, whole_run

SCALES = {"240 K (Kinetics)": 240_000, "2 M (AudioSet)": 2_000_000, "65 M (Instagram)": 65_000_000}
GPUS = (1, 8, 64)


@dataclass(frozen=True)
class StageTime:
    """One stage of one plan: hours, and what limits it."""

    stage: str
    hours: float
    limit: str


def value(rates: dict[str, Any], name: str) -> float:
    """Return one of the file's numbers."""
    return float(rates[name]["value"])


def slowest(stage: str, *limits: tuple[str, float]) -> StageTime:
    """Return the time of the slowest of several parts, in seconds each, that proceed side by side."""
    limit, seconds = max(limits, key=lambda pair: pair[1])
    return StageTime(stage, seconds / HOUR, limit)


def plan(rates: dict[str, Any], clips: int, gpus: int) -> list[StageTime]:
    """Return the times of sharding once, then of one round: both modalities, one after the other on all GPUs.

    The units of shard, extract, label and of reading the sample are divided among all machines; k-means is done on one.
    """

    def rate(name: str) -> float:
        return value(rates, name)

    cores = gpus * rate("cores_per_gpu")
    flops = gpus * rate("gpu_matrix_tflops") * 1e12 * rate("gpu_share_of_matrix_rate")
    draws = rate("clips_a_round_per_clip") * clips
    bytes_s = rate("read_mb_s_per_gpu") * gpus * 1e6

    def encoded(stage: str, modality: str, views: float, passes: int, what: str) -> StageTime:
        """Return the time for views that are decoded and passed through the encoder (a gradient counts as two)."""
        work = views * passes * rate(f"{modality}_encoder_gflop") * 1e9
        return slowest(
            f"{stage}.{modality}",
            ("CPU: decoding", views / (rate(f"{modality}_views_per_core_s") * cores)),
            (f"GPU: {what}", work / flops),
            ("storage", views * rate(f"{modality}_mb") * 1e6 / bytes_s),
        )

    times = [slowest("shard, once", ("CPU: decoding and encoding", clips / (rate("cut_clips_per_core_s") * cores)))]
    times += [encoded("extract", modality, clips, 1, "the encoder") for modality in ("video", "audio")]
    read_s, row_s = rate("feature_bytes") / bytes_s, rate("kmeans_iterations") / rate("kmeans_points_per_s")
    clustering = 2 * kmeans_s(float(clips), rate("kmeans_sample"), read_s, row_s)
    times.append(StageTime("cluster, both", clustering / HOUR, "CPU of one machine: k-means of the sample"))
    labels = 2 * clips * (1 / rate("label_rows_per_s") + rate("label_row_overhead_s")) / gpus
    times.append(StageTime("label, both", labels / HOUR, "CPU: keys, scores, Parquet"))
    times += [encoded("train", modality, draws, 3, "forward and backward") for modality in ("video", "audio")]
    return times


def stored(rates: dict[str, Any], clips: int) -> dict[str, float]:
    """Return sizes on disk and in memory, and numbers of files and units."""
    megabytes = sum(value(rates, f"{modality}_mb") for modality in ("video", "audio"))
    shards = shards_of(clips, int(value(rates, "clips_per_shard")))
    return {
        "corpus, TB": clips * megabytes / 1e6,
        "features a round, TB": clips * feature_bytes(2 * round(value(rates, "feature_bytes") / 4)) / 1e12,
        "labels a round, GB": clips * 2 * value(rates, "label_bytes") / 1e9,
        "corpus, files": 3 * shards,
        "files a round": 4 * shards,
        "units a round": 2 * shards + 2 * shards / value(rates, "label_shards_per_unit"),
        "index, private GB a training process": clips * value(rates, "index_private_bytes") / 1e9,
        "index and targets, mapped GB a machine": clips * value(rates, "index_mapped_bytes") / 1e9,
        "plan, GB in the process of shard": clips * value(rates, "plan_bytes_in_memory") / 1e9,
        "sources, GB in the flow's process": clips * value(rates, "source_bytes_in_flow") / 1e9,
    }


def number_text(number: float) -> str:
    """Return a size with two digits, or a large number without decimals."""
    return f"{number:,.0f}" if number >= 100 else f"{number:.2g}"


def main() -> None:
    """Print a table per number of GPUs, and one of sizes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rates", type=Path, nargs="?", default=Path(__file__).with_name("rates.json"))
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    rates = json.loads(given.rates.read_text(encoding="utf-8"))
    rounds = value(rates, "rounds")
    clips = {title: round(videos * value(rates, "clips_per_video")) for title, videos in SCALES.items()}
    plans = {(title, gpus): plan(rates, number, gpus) for title, number in clips.items() for gpus in GPUS}
    columns = [f"{title}, {gpus} GPU{'s' * (gpus > 1)}" for title in SCALES for gpus in GPUS]
    print(f"| | {' | '.join(columns)} | waits for, on 64 GPUs |\n|{'---|' * (len(columns) + 2)}")
    last = [*SCALES][-1], GPUS[-1]
    for row, stage in enumerate(plans[last]):
        print(f"| {stage.stage} | {' | '.join(span(times[row].hours) for times in plans.values())} | {stage.limit} |")
    totals = {
        key: whole_run(times[0].hours, sum(time.hours for time in times[1:]), rounds) for key, times in plans.items()
    }
    print(f"| shard and {rounds:g} rounds | {' | '.join(map(span, totals.values()))} | |\n")
    sizes = {title: stored(rates, number) for title, number in clips.items()}
    print(f"| | {' | '.join(SCALES)} |\n|{'---|' * (len(SCALES) + 1)}")
    for name in next(iter(sizes.values())):
        print(f"| {name} | {' | '.join(number_text(size[name]) for size in sizes.values())} |")
    if given.out:
        times = {f"{title}, {gpus}": list(map(asdict, stages)) for (title, gpus), stages in plans.items()}
        given.out.write_text(json.dumps({"times": times, "stored": sizes}, indent=2) + "\n")


if __name__ == "__main__":
    main()
