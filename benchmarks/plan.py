"""A paper plan: a run on 240 thousand, 2 million and 65 million videos, on 1 and on 64 GPUs, from rates in a file.

    python benchmarks/plan.py [benchmarks/rates.json] [--out plan.json]

The file has measured rates, each with the command that measured it, and assumptions, each with its reason. Nothing here
measures: what comes out is multiplication, to find out which stage is the bottleneck and what would move it. Change the
file and see.
"""

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

HOUR = 3600.0
SCALES = {"Kinetics, 240 K": 240_000, "AudioSet, 2 M": 2_000_000, "Instagram, 65 M": 65_000_000}


@dataclass(frozen=True)
class StageTime:
    """One stage of one plan: hours, and what it waits for."""

    stage: str
    hours: float
    limit: str


def value(rates: dict[str, Any], name: str) -> float:
    """One of the file's numbers."""
    return float(rates[name]["value"])


def slower(stage: str, *limits: tuple[str, float]) -> StageTime:
    """The hours of the slowest of several that work side by side."""
    limit, seconds = max(limits, key=lambda pair: pair[1])
    return StageTime(stage, seconds / HOUR, limit)


def plan(rates: dict[str, Any], clips: int, gpus: int) -> list[StageTime]:
    """Shard once, then one round: both modalities, one after the other on all GPUs."""

    def rate(name: str) -> float:
        return value(rates, name)

    cores = gpus * rate("cores_per_gpu")
    flops = gpus * rate("gpu_matrix_tflops") * 1e12 * rate("gpu_share_of_matrix_rate")
    draws = rate("clips_a_round_per_clip") * clips

    def watched(stage: str, modality: str, views: float, passes: int, what: str) -> StageTime:
        """So many views, decoded, and passed through the encoder so many times (a gradient counts twice)."""
        work = views * passes * rate(f"{modality}_encoder_gflop") * 1e9
        return slower(
            f"{stage}.{modality}",
            ("CPU: decoding", views / (rate(f"{modality}_views_per_core_s") * cores)),
            (f"GPU: {what}", work / flops),
            ("storage", views * rate(f"{modality}_mb") / (rate("read_mb_s_per_gpu") * gpus)),
        )

    found = [slower("shard (once)", ("CPU: decoding and encoding", clips / (rate("cut_clips_per_core_s") * cores)))]
    found += [watched("extract", modality, clips, 1, "the encoder") for modality in ("video", "audio")]
    sample = min(clips, rate("kmeans_sample"))
    work = sample * rate("kmeans_iterations") / rate("kmeans_points_per_s")
    found.append(StageTime("cluster (both)", 2 * work / HOUR, "CPU of one machine: k-means of the sample"))
    labels = clips * (1 / rate("label_rows_per_s") + rate("label_row_overhead_s"))
    found.append(StageTime("label (both)", 2 * labels / HOUR, "CPU of one machine: scores, keys, Parquet"))
    found += [watched("train", modality, draws, 3, "forward and backward") for modality in ("video", "audio")]
    return found


def stored(rates: dict[str, Any], clips: int) -> dict[str, float]:
    """Terabytes and files."""
    megabytes = sum(value(rates, f"{modality}_mb") for modality in ("video", "audio"))
    shards = -(-clips // int(value(rates, "clips_per_shard")))
    return {
        "corpus_tb": clips * megabytes / 1e6,
        "features_tb_a_round": clips * 2 * value(rates, "feature_bytes") / 1e12,
        "labels_gb_a_round": clips * 2 * value(rates, "label_bytes") / 1e9,
        "corpus_files": 2 * shards,
        "files_a_round": 4 * shards,
        "index_gb_mapped_on_a_machine": clips * value(rates, "index_bytes_mapped") / 1e9,
        "plan_gb_in_memory_of_shard": clips * value(rates, "plan_bytes_in_memory") / 1e9,
    }


def main() -> None:
    """Print a table a scale."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rates", type=Path, nargs="?", default=Path(__file__).with_name("rates.json"))
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    rates = json.loads(given.rates.read_text(encoding="utf-8"))
    rounds, result = value(rates, "rounds"), {}
    for title, videos in SCALES.items():
        clips = round(videos * value(rates, "clips_per_video"))
        one, many = (plan(rates, clips, gpus) for gpus in (1, 64))
        print(f"{title} videos, {clips:,} clips")
        print(f"  {'stage':<16}{'1 GPU, h':>12}{'64 GPUs, h':>12}  waits for")
        for alone, together in zip(one, many, strict=True):
            print(f"  {alone.stage:<16}{alone.hours:>12,.1f}{together.hours:>12,.2f}  {together.limit}")
        totals = [sum(stage.hours for stage in stages[1:]) for stages in (one, many)]
        print(f"  {'a round':<16}{totals[0]:>12,.1f}{totals[1]:>12,.2f}")
        days = [(stages[0].hours + rounds * total) / 24 for stages, total in zip((one, many), totals, strict=True)]
        print(f"  {f'{rounds:g} rounds':<16}{days[0]:>10,.1f} d{days[1]:>10,.2f} d")
        kept = stored(rates, clips)
        for name, number in kept.items():
            print(f"  {name.replace('_', ' '):<44}{number:>12,.{0 if number >= 100 else 2}f}")
        print()
        result[title] = {
            "clips": clips,
            "stages": {"1": list(map(asdict, one)), "64": list(map(asdict, many))},
            "stored": kept,
        }
    if given.out:
        given.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
