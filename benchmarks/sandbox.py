"""What the sandbox costs: clips a second in a limited child process, against the same work in this process.

    python benchmarks/sandbox.py FOLDER [--clips 60] [--blocks 4]

FOLDER holds videos (searched recursively). Both do what sharding does for a clip, one clip at a time: decode, encode,
and for the sandbox hand it over. They take turns by blocks of clips, so that what else the machine does hits both.
A child's start is paid once for a whole corpus: it is printed apart. Where the machine is busy, processor time (of the
child and of its parent) tells more than wall time.
"""

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

from shards.corpus.cut import cut_clip
from shards.corpus.plan import make_plan
from shards.corpus.survey import survey
from shards.errors import MediaError
from shards.media.cut import Clip
from shards.media.limits import limits_of
from shards.media.sandbox import ordered_map
from shards.progress import silent
from shards.settings import CorpusSettings
from shards.sources.source import list_folder


def timed_cut(*job: Any) -> tuple[Clip | str, float]:
    """A clip, or why there is none, and the processor time that this process has used so far."""
    try:
        made: Clip | str = cut_clip(*job)
    except MediaError as error:
        made = str(error)
    return made, time.process_time()


def here(part: list[tuple[Any, ...]]) -> tuple[list[Clip | str], float, float]:
    """Clips, seconds of wall time, seconds of processor time; without a sandbox."""
    clock, used = time.monotonic(), time.process_time()
    made = [timed_cut(*job)[0] for job in part]
    return made, time.monotonic() - clock, time.process_time() - used


def there(part: list[tuple[Any, ...]], settings: CorpusSettings) -> tuple[list[Clip | str], float, float, float]:
    """The same in a child, and the seconds of the child's start with its first clip, which counts for nothing."""
    clock = time.monotonic()
    answers = ordered_map(timed_cut, [part[0], *part], 1, limits_of(settings))
    _, child_before = next(answers)
    start_s = time.monotonic() - clock
    clock, used = time.monotonic(), time.process_time()
    made = [next(answers) for _ in part]
    wall_s, parent_s = time.monotonic() - clock, time.process_time() - used
    answers.close()
    return [clip for clip, _ in made], wall_s, parent_s + made[-1][1] - child_before, start_s


def main() -> None:
    """Print both rates and their ratio, by wall time and by processor time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--clips", type=int, default=60)
    parser.add_argument("--blocks", type=int, default=4)
    arguments = parser.parse_args()
    settings = CorpusSettings(silence="keep")
    listing = list_folder(arguments.folder, label_from_folder=False)
    with tempfile.TemporaryDirectory() as notes:
        found = survey(listing, [], Path(notes) / "notes", settings, silent)
    planned = list(make_plan(settings, listing, found).clips())[: arguments.clips]
    jobs = [(str(listing.root), clip.source, clip.start_s, clip.end_s, settings) for clip in planned]
    size = -(-len(jobs) // arguments.blocks)
    timed_cut(*jobs[0])
    alone, apart, starts = [0.0, 0.0], [0.0, 0.0], []
    for first in range(0, len(jobs), size):
        part = jobs[first : first + size]
        made, *seconds = here(part)
        alone = [total + more for total, more in zip(alone, seconds, strict=True)]
        same, wall_s, cpu_s, start_s = there(part, settings)
        apart = [apart[0] + wall_s, apart[1] + cpu_s]
        starts.append(start_s)
        if made != same:
            raise SystemExit("the sandbox gives other clips")
    print(f"{len(jobs)} clips in {len(starts)} blocks; a child's start with one clip: {min(starts):.1f} s at best")
    for what, one, other in zip(("wall", "processor"), alone, apart, strict=True):
        rates = f"in this process {len(jobs) / one:.2f}, in the sandbox {len(jobs) / other:.2f}"
        print(f"clips a second of {what} time: {rates}; ratio {one / other:.3f}")


if __name__ == "__main__":
    main()
