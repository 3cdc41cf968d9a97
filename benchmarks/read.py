"""Reading clips out of a corpus, against tarfile, WebDataset's own pipeline, and plain files in a folder.

    PYTHONPATH=. python benchmarks/read.py RUN [--clips 2000]

RUN is a run with a finished corpus. Everyone reads the bytes of the same clips, pictures (.mp4) and sound (.flac),
from a warm cache. In the last table views of pictures are decoded, too. Ours also compares each clip's sha256 with the
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
        rows += [(name, row) for row in read_index(run.corpus, name, [*COLUMNS, *GROUPS.names]).to_pylist()]
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
        views = [(name, row, draw.randrange(max(1, row["frames"] - FRAMES))) for name, row in shuffled[:VIEWS]]
        views = [(name, row, first) for name, row, first in views if row["frames"] >= FRAMES]

        def of_groups() -> None:
            for name, row, first in views:
                (part,) = reader.read_all([Request(name, row, "mp4", (first, first + FRAMES))])
                decode_frames(part, first, FRAMES)

        def of_whole_clips() -> None:
            for name, row, first in views:
                decode_frames(reader.read(name, row, "mp4"), first, FRAMES)

        ways = {"from their groups of pictures": of_groups, "from whole clips": of_whole_clips}
        decoded = contest(f"views of {FRAMES} frames, read and decoded", "views", len(views), ways, given.turns)
        show(decoded, "from their groups of pictures")
    record(given.out, contests=[in_order, at_random, decoded], clips=len(rows))


if __name__ == "__main__":
    main()
