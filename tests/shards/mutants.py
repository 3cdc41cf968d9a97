"""Small valid videos, damaged at random. As a program: a corpus of many of them, and what became of each.

    python -m tests.shards.mutants [--mutants 2000] [--seed 0]

prints how many became clips and how many were rejected for which reason. It fails where a mutant is not accounted for,
or where a reason is none that a person can do something with.
"""

import argparse
import re
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from shards.corpus.index import read_whole_index
from shards.corpus.stage import shard
from shards.reject import KINDS as KINDS_OF_REJECTS
from shards.settings import CorpusSettings
from shards.sources.coverage import Span, slack_s, uncovered
from tests.shards.media_maker import plain, tone, write_video
from tests.shards.packet_reader import last_packets_end

KINDS = {
    "mp4": ("libx264", "aac"),
    "mov": ("libx264", "pcm_s16le"),
    "mkv": ("libx264", "flac"),
    "webm": ("libvpx", "libopus"),
    "avi": ("mpeg4", "mp2"),
    "ts": ("libx264", "aac"),
    "mpg": ("mpeg2video", "mp2"),
    "flv": ("libx264", "aac"),
}
SETTINGS = CorpusSettings(
    min_seconds=0.2,
    short_side=16,
    fps=10,
    sample_rate=8000,
    silence="keep",
    max_reject_share=1.0,
    workers=2,
    clip_cpu_s=60,
    clip_timeout_s=600,
    clip_memory_mb=1024,
)
# What no reason may say: a defect of ours, a decoder that crashed or hung, or nothing.
NO_REASON = re.compile(r"unknown|Error|defect|crashed|took longer|needed more|decoding process|^\W*$")


def valid_videos(folder: Path) -> dict[str, bytes]:
    """One video of a second and a bit in each kind of container, by suffix."""
    frames = [plain((5 * n, 200 - 4 * n, 80)) for n in range(30)]
    for suffix, (video, audio) in KINDS.items():
        write_video(folder / f"a.{suffix}", frames, tone(440, 1.2), video_codec=video, audio_codec=audio)
    return {suffix: (folder / f"a.{suffix}").read_bytes() for suffix in KINDS}


Damage = Callable[[bytearray, np.random.Generator], None]


def _flip(data: bytearray, draw: np.random.Generator) -> None:
    for at in draw.integers(len(data), size=draw.integers(1, 65)):
        data[at] ^= 1 << int(draw.integers(8))


def _flip_in_header(data: bytearray, draw: np.random.Generator) -> None:
    for at in draw.integers(min(len(data), 1024), size=draw.integers(1, 9)):
        data[at] ^= 1 << int(draw.integers(8))


def _cut(data: bytearray, draw: np.random.Generator) -> None:
    del data[draw.integers(len(data)) :]


def _insert(data: bytearray, draw: np.random.Generator) -> None:
    at = int(draw.integers(len(data) + 1))
    data[at:at] = draw.bytes(int(draw.integers(1, 1000)))


def _remove(data: bytearray, draw: np.random.Generator) -> None:
    at = int(draw.integers(len(data)))
    del data[at : at + int(draw.integers(1, 1000))]


def _swap(data: bytearray, draw: np.random.Generator) -> None:
    size = int(draw.integers(1, max(2, len(data) // 4)))
    one, other = sorted(int(at) for at in draw.integers(max(1, len(data) - size), size=2))
    data[one : one + size], data[other : other + size] = data[other : other + size], data[one : one + size]


def _blank(data: bytearray, draw: np.random.Generator) -> None:
    at = int(draw.integers(len(data)))
    end = min(len(data), at + int(draw.integers(1, 2000)))
    data[at:end] = bytes([int(draw.choice([0, 255]))]) * (end - at)


def _extreme(data: bytearray, draw: np.random.Generator) -> None:
    """A number of 2, 4 or 8 bytes at a limit, in either order of bytes; most of them in the header."""
    for _ in range(draw.integers(1, 5)):
        size = int(draw.choice([2, 4, 8]))
        number = int(draw.choice([0, 1, 2 ** (4 * size), 2 ** (8 * size - 1) - 1, -(2 ** (8 * size - 1)), -1, -2]))
        at = int(draw.integers(len(data) if draw.random() < 0.3 else min(len(data), 2048)))
        order = "big" if draw.random() < 0.5 else "little"
        data[at : at + size] = (number % 2 ** (8 * size)).to_bytes(size, order)


DAMAGES: tuple[Damage, ...] = (_flip, _flip_in_header, _cut, _insert, _remove, _swap, _blank, _extreme)


def mutate(data: bytes, seed: tuple[int, ...]) -> bytes:
    """One to three damages, drawn from `seed`: the same seed gives the same bytes."""
    draw = np.random.default_rng(seed)
    mutant = bytearray(data)
    for number in draw.integers(len(DAMAGES), size=draw.integers(1, 4)):
        if mutant:
            DAMAGES[number](mutant, draw)
    return bytes(mutant)


def unaccounted(corpus: Path, folder: Path) -> list[Span]:
    """What of the files is in no clip and in no reject, by a reading of their packets that is none of ours."""
    found = [
        Span(row["source"], row["start_s"], row["start_s"] + row["duration_s"])
        for row in read_whole_index(corpus).to_pylist()
    ]
    for row in pq.read_table(corpus / "rejects.parquet").to_pylist():
        assert row["kind"] in KINDS_OF_REJECTS
        if row["end_s"] is not None:
            found.append(Span(row["source"], row["start_s"], row["end_s"]))
    asked = [Span(path.name, 0.0, last_packets_end(path)) for path in sorted(folder.iterdir())]
    return list(uncovered(asked, found, slack_s(SETTINGS.fps)))


def shard_mutants(folder: Path, count: int, seed: int) -> tuple[set[str], dict[str, list[str]], set[str]]:
    """A corpus of `count` mutants, equally many of each kind. Sources with clips, reasons by source, all sources."""
    valid = valid_videos(folder / "valid")
    (folder / "mutants").mkdir()
    names = set()
    for number in range(count):
        suffix = list(KINDS)[number % len(KINDS)]
        names.add(f"{number:06d}.{suffix}")
        (folder / "mutants" / f"{number:06d}.{suffix}").write_bytes(mutate(valid[suffix], (seed, number)))
    shard(folder / "corpus", folder / "mutants", SETTINGS)
    reasons: dict[str, list[str]] = {}
    for reject in pq.read_table(folder / "corpus" / "rejects.parquet").to_pylist():
        reasons.setdefault(reject["source"], []).append(reject["reason"])
    return set(read_whole_index(folder / "corpus")["source"].to_pylist()), reasons, names


def main() -> None:
    """Print a table; exit with 1 where something is not as it must be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mutants", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        clock = time.monotonic()
        used, reasons, names = shard_mutants(Path(folder), arguments.mutants, arguments.seed)
        seconds = time.monotonic() - clock
        gaps = unaccounted(Path(folder) / "corpus", Path(folder) / "mutants")
    lost = names - used - set(reasons)
    bad = {name: why for name, why in reasons.items() if any(NO_REASON.search(reason) for reason in why)}
    kinds = Counter(re.sub(r"-?\d[\d.,x]*", "N", reason) for why in reasons.values() for reason in why)
    print(f"{len(names)} mutants in {seconds:.0f} s: {len(used)} gave clips, {len(set(reasons) - used)} gave none")
    print(f"not accounted for: {len(lost)} files, {len(gaps)} spans; without a reason of use: {len(bad)}")
    for reason, number in kinds.most_common():
        print(f"{number:6d}  {reason}")
    if lost or bad or gaps:
        print(sorted(lost), bad, gaps)
        raise SystemExit(1)


if __name__ == "__main__":
    main()
