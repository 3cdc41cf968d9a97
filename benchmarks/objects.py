"""Reading clips from an object store: by ranges against one by one, by groups of pictures against whole, with a cache.

    python -m tests.engines.install seaweed
    PYTHONPATH=. python benchmarks/objects.py [--clips 200]

The server is a SeaweedFS on this machine. Its objects are tars' worth of random bytes, which take no time to make:
members of 4 KB, and clips of 377 KB (the mean of 132 clips of 10 s of the preset paper-kinetics) with 38 groups of
pictures each. Everything that is read is checked against its sha256, as always; nothing is decoded.
"""

import hashlib
import json
import os
import random
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from side_by_side import contest, parser, record, show

from shards.corpus.reader import ClipReader, Request
from shards.media.decode import group_mark
from shards.objects.cache import Cache
from shards.objects.tars import TARS
from tests.engines.seaweed import BUCKET, put, seaweed

SMALL, CLIP, HEADER, GROUPS, FRAMES = 4096, 377_000, 48, 38, 8
AVCC = b"avcC"
BATCH, OF_SMALL = 32, 64
CLIPS_PER_TAR = 50


def clips_of(count: int, size: int, groups: int) -> tuple[dict[str, bytes], list[tuple[str, dict[str, Any]]]]:
    """Return objects by name, and the shard and the index row of each clip."""
    objects: dict[str, bytes] = {}
    rows = []
    for shard in range(-(-count // CLIPS_PER_TAR)):
        name, tar = f"{shard:06d}", bytearray()
        for number in range(shard * CLIPS_PER_TAR, min(count, (shard + 1) * CLIPS_PER_TAR)):
            data = np.random.default_rng([size, number]).bytes(size)
            ends = np.linspace(HEADER if groups > 1 else 0, size, groups + 1).astype(int).tolist()
            row = {
                "key": f"{number}",
                "mp4_offset": len(tar) + 512,
                "mp4_size": size,
                "mp4_sha256": hashlib.sha256(data).hexdigest(),
                "mp4_header": AVCC,
                "mp4_group_frame": [FRAMES * group for group in range(groups)],
                "mp4_group_offset": ends,
                "mp4_group_sha256": [
                    hashlib.sha256(group_mark(AVCC, FRAMES * group) + data[begin:end]).digest()
                    for group, (begin, end) in enumerate(pairwise(ends))
                ],
            }
            tar += bytes(512) + data
            rows.append((name, row))
        objects[f"{size}/{name}.tar"] = bytes(tar)
    return objects, rows


def corpus_at(folder: Path, size: int) -> Path:
    """Return the directory of a corpus whose tars are in the store."""
    corpus = folder / str(size)
    corpus.mkdir()
    (corpus / TARS).write_text(json.dumps({"url": f"s3://{BUCKET}/{size}", "manifest": "", "tars": {}}))
    return corpus


def batches(requests: list[Request], size: int) -> list[list[Request]]:
    """Return the requests, `size` at a time."""
    return [requests[first : first + size] for first in range(0, len(requests), size)]


def main() -> None:
    """Print a table for small members, one for clips, and one for a cache that is smaller than the corpus."""
    arguments = parser(__doc__)
    arguments.add_argument("--clips", type=int, default=200)
    given = arguments.parse_args()
    draw = random.Random(0)
    with tempfile.TemporaryDirectory() as place, seaweed(Path(place, "server")) as server:
        os.environ |= server.environment()
        folder = Path(place)
        small, small_rows = clips_of(640, SMALL, 1)
        large, rows = clips_of(given.clips, CLIP, GROUPS)
        put(server, BUCKET, small | large)

        one = [Request(name, row, "mp4") for name, row in draw.sample(small_rows, len(small_rows))]
        of_a_tar = sorted(one, key=lambda request: request.shard)
        reader = ClipReader(corpus_at(folder, SMALL))

        def read(reader: ClipReader, parts: list[list[Request]]) -> None:
            for part in parts:
                reader.read_all(part)

        members = {
            "64 at once": lambda: read(reader, batches(of_a_tar, OF_SMALL)),
            "one by one": lambda: read(reader, batches(one, 1)),
        }
        contests = [contest("members of 4 KB", "members", len(one), members, given.turns)]
        show(contests[0], "one by one")

        corpus = corpus_at(folder, CLIP)
        drawn = draw.sample(rows, len(rows))
        # As training draws them: seven of eight views need two groups.
        starts = [draw.randrange(FRAMES * (GROUPS - 1) + 1) for _ in drawn]
        whole = [Request(name, row, "mp4") for name, row in drawn]
        groups = [
            Request(name, row, "mp4", (first, first + FRAMES)) for (name, row), first in zip(drawn, starts, strict=True)
        ]
        one_group = [
            Request(name, row, "mp4", (start - start % FRAMES, start - start % FRAMES + FRAMES))
            for (name, row), start in zip(drawn, starts, strict=True)
        ]
        clips = ClipReader(corpus)
        ways = {
            "whole, one by one": lambda: read(clips, batches(whole, 1)),
            "groups of pictures, one by one": lambda: read(clips, batches(groups, 1)),
            f"whole, {BATCH} at once": lambda: read(clips, batches(whole, BATCH)),
            f"groups of pictures, {BATCH} at once": lambda: read(clips, batches(groups, BATCH)),
            "one group each, one by one": lambda: read(clips, batches(one_group, 1)),
            f"one group each, {BATCH} at once": lambda: read(clips, batches(one_group, BATCH)),
        }
        contests.append(contest("clips of 377 KB", "views", len(drawn), ways, given.turns))
        show(contests[1], "whole, one by one")

        # Groups are 10 KB and take 12 KB of a disk: a quarter of them fits.
        limit = given.clips * GROUPS * 12 * 1024 // 4
        cache = Cache(folder / "cache", limit)
        cached, again = ClipReader(corpus, cache), random.Random(1)
        views = [
            Request(name, row, "mp4", (first, first + FRAMES))
            for name, row in again.sample(rows, len(rows))
            for first in range(0, FRAMES * GROUPS, FRAMES)
        ]
        again.shuffle(views)
        read(cached, batches(views, BATCH))
        found = sum(
            cache.get(r.row["mp4_group_sha256"][r.span[0] // FRAMES], group_mark(AVCC, r.span[0])) is not None
            for r in views
            if r.span
        )
        taken = sum(-(-path.stat().st_size // 4096) * 4096 for path in (folder / "cache").rglob("*") if path.is_file())
        drawn_each_time = 4 * given.clips  # Others in every turn: else all would be in the cache after the first.
        with_cache = {
            "without a cache": lambda: read(clips, batches(again.sample(views, drawn_each_time), BATCH)),
            "with a cache for a quarter": lambda: read(cached, batches(again.sample(views, drawn_each_time), BATCH)),
        }
        contests.append(contest("a cache smaller than the corpus", "views", drawn_each_time, with_cache, given.turns))
        show(contests[2], "without a cache")
        print(
            f"The cache takes {taken / 1e6:.1f} MB, its limit is {limit / 1e6:.1f} MB; it holds "
            f"{found / len(views):.0%} of the groups of pictures."
        )
        for each in (reader, clips, cached):
            each.close()
    record(given.out, contests=contests, clips=given.clips, taken=taken, limit=limit)


if __name__ == "__main__":
    main()
