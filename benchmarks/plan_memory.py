"""What the stage `shard` holds of its sources: bytes for each, and seconds, of listing, survey, plan and tables.

    PYTHONPATH=. python benchmarks/plan_memory.py [--sources 100000] [--few 1000]

The sources have a path, a label and a survey as videos of about ten seconds have; no file is read. Every step is done
with --few of them first, so that what is imported or made once does not count. "held" is what Python (tracemalloc) and
Arrow hold after a step, "peak" what Python holds in between on top of that. Seconds are measured in a second pass,
without tracemalloc. For comparison: with an object for each source, file, clip and reject it was 2,130 bytes a source
and a peak of 2,960 (40,000 sources, the same values).
"""

import gc
import random
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
from side_by_side import parser, record

from shards.corpus.plan import corpus_fingerprint, make_plan
from shards.corpus.write import SOURCES_SCHEMA, _sources_tables, _take_plan
from shards.settings import CorpusSettings
from shards.sources.columns import source_columns
from shards.sources.source import Listing, Source
from shards.sources.surveyed import Surveyed, survey_columns
from shards.store.parquet import write_row_groups


def sources(count: int) -> Iterator[Source]:
    """Videos in 400 folders, each with the folder's name as its label."""
    for number in range(count):
        yield Source(f"class {number % 400:03d}/video-{number:010d}.mp4", labels={"label": f"class {number % 400:03d}"})


def surveyed(count: int) -> Iterator[Surveyed]:
    """What a survey of them would find: 9.5 to 11 s, so that many have a rest that is too short."""
    dice = random.Random(0)
    for number, source in enumerate(sources(count)):
        video_s, digest = 9.5 + number % 7 / 4, f"{dice.getrandbits(256):064x}"
        numbers = {"width": 340, "height": 256, "fps": 29.97, "sample_rate": 44100, "probe_version": 2}
        times = {"duration_s": video_s, "sound_duration_s": 10.0, "header_duration_s": 10.0, "last_packet_s": video_s}
        codecs = {"video_codec": "h264", "audio_codec": "aac"}
        yield Surveyed(source.path, number, number, digest, **numbers, **times, **codecs)  # type: ignore[arg-type]


def steps(count: int, note: Callable[[str], None]) -> None:
    """Do what the stage does before its first clip, and call `note` after each step."""
    settings = CorpusSettings()
    listing = Listing(Path("videos"), source_columns(sources(count)), ())
    note("listing")
    found = survey_columns(surveyed(count))
    note("survey")
    corpus_fingerprint(settings, listing, found)
    note("fingerprint")
    plan = make_plan(settings, listing, found)
    note("plan")
    with tempfile.TemporaryDirectory() as folder:
        _take_plan(Path(folder), plan)
        write_row_groups(Path(folder) / "sources.parquet", SOURCES_SCHEMA, _sources_tables(plan, found))
    note("tables")


def main() -> None:
    """Print a table."""
    arguments = parser(__doc__)
    arguments.add_argument("--sources", type=int, default=100_000)
    arguments.add_argument("--few", type=int, default=1000)
    given = arguments.parse_args()
    count, found = given.sources, dict[str, dict[str, Any]]()
    steps(given.few, lambda step: None)

    def seconds(step: str) -> None:
        nonlocal since
        found[step] = {"seconds": time.monotonic() - since}
        since = time.monotonic()

    since = time.monotonic()
    steps(count, seconds)

    def memory(step: str) -> None:
        nonlocal before
        gc.collect()
        held, peak = tracemalloc.get_traced_memory()
        total = held + pa.total_allocated_bytes()
        found[step] |= {"held": (total - before) / count, "peak": (peak - held) / count}
        before = total
        tracemalloc.reset_peak()

    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0] + pa.total_allocated_bytes()
    steps(count, memory)
    print(f"{'step':<14}{'held, bytes':>14}{'peak, bytes':>14}{'us':>10}   for each of {count:,} sources")
    for step, row in found.items():
        print(f"{step:<14}{row['held']:>14.0f}{row['peak']:>14.0f}{row['seconds'] / count * 1e6:>10.0f}")
    print(f"{'in the end':<14}{sum(row['held'] for row in found.values()):>14.0f}")
    record(given.out, sources=count, steps=found)


if __name__ == "__main__":
    main()
