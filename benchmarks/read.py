"""Reading clips out of a corpus, against tarfile, WebDataset's own pipeline, and plain files in a folder.

    PYTHONPATH=. python benchmarks/read.py RUN [--clips 2000]

RUN is a run with a finished corpus. Everyone reads the bytes of the same clips, pictures (.mp4) and sound (.flac),
from a warm cache. In the last tables views of pictures are decoded, too. Ours also compares each clip's sha256 with the
index's, as it always does; "without sha256" shows what that costs.
"""

import random
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import webdataset
from side_by_side import contest, parser, record, show

from shards.corpus.index import GROUPS, read_index, shard_names
from shards.corpus.reader import ClipReader, Request
from shards.media.decode import decode_frames
from xdc_core.runs.run import open_run

COLUMNS = ["key", "mp4_offset", "mp4_size", "mp4_sha256", "flac_offset", "flac_size", "flac_sha256", "frames"]
FRAMES, VIEWS = 8, 400
VIEWS_OF_A_CLIP = (1, 3, 10)  # Ten, as in evaluations.


def main() -> None:
    """Print a table for reading in order, one for reading at random, and one for views of pictures."""
    arguments = parser(__doc__)
    arguments.add_argument("run", type=Path)
    arguments.add_argument("--clips", type=int, default=2000)
    given = arguments.parse_args()
    run = open_run(given.run)
    rows: list[tuple[str, dict[str, Any]]] = []
    names = []
    for name in shard_names(run.corpus):
        if len(rows) >= given.clips:
            break
        names.append(name)
        table = read_index(run.corpus, name)
        rows += [
            (name, row)
            for row in table.select([c for c in table.column_names if c in (*COLUMNS, *GROUPS.names)]).to_pylist()
        ]
    tars = [str(run.corpus / f"{name}.tar") for name in names]
    shuffled = random.Random(0).sample(rows, len(rows))
    with tempfile.TemporaryDirectory() as folder, ClipReader(run.corpus) as reader:
        for name, row in rows:
            for member in ("mp4", "flac"):
                Path(folder, f"{row['key']}.{member}").write_bytes(reader.read(name, row, member))

        def ours(order: list[tuple[str, dict[str, Any]]] = rows) -> None:
            for name, row in order:
                reader.read(name, row, "mp4")
                reader.read(name, row, "flac")

        def unchecked() -> None:
            for name, row in rows:
                for member in ("mp4", "flac"):
                    reader._tars.read({name: [reader._member(row, member)._replace(sha256=None)]})

        def pipeline() -> None:
            for sample in webdataset.WebDataset(tars, shardshuffle=False, empty_check=False):
                assert sample["mp4"]
                assert sample["flac"]

        def tar_alone() -> None:
            for path in tars:
                with tarfile.open(path) as tar:
                    for member in tar:
                        if not member.name.endswith(".json"):
                            stream = tar.extractfile(member)
                            assert stream is not None
                            stream.read()

        def files() -> None:
            for _, row in rows:
                for member in ("mp4", "flac"):
                    Path(folder, f"{row['key']}.{member}").read_bytes()

        contestants = {
            "xdc": ours,
            "xdc, without sha256": unchecked,
            "WebDataset's pipeline": pipeline,
            "tarfile": tar_alone,
            "files in a folder": files,
        }
        in_order = contest("reading in order", "clips", len(rows), contestants, given.turns)
        show(in_order, "xdc")
        both = {"at random": lambda: ours(shuffled), "in order": ours}
        at_random = contest("xdc's reading", "clips", len(rows), both, given.turns)
        show(at_random, "at random")
        draw = random.Random(1)
        long = [(name, row) for name, row in shuffled if row["frames"] >= FRAMES]
        decoded = []
        for count in VIEWS_OF_A_CLIP:
            views = [
                (name, row, sorted(draw.randrange(row["frames"] - FRAMES + 1) for _ in range(count)))
                for name, row in long[: VIEWS // count]
            ]

            def of_groups(views: list[Any] = views) -> None:
                for name, row, starts in views:
                    spans = [Request(name, row, "mp4", (first, first + FRAMES)) for first in starts]
                    for part, first in zip(reader.read_all(spans), starts, strict=True):
                        decode_frames(part, first, FRAMES)

            def of_whole_clips(views: list[Any] = views) -> None:
                for name, row, starts in views:
                    data = reader.read(name, row, "mp4")
                    for first in starts:
                        decode_frames(data, first, FRAMES)

            ways = {"from their groups of pictures": of_groups, "from whole clips": of_whole_clips}
            title = f"views of {FRAMES} frames, {count} of each clip, read and decoded"
            decoded.append(contest(title, "views", count * len(views), ways, given.turns))
            show(decoded[-1], "from their groups of pictures")
    record(given.out, contests=[in_order, at_random, *decoded], clips=len(rows))


if __name__ == "__main__":
    main()
