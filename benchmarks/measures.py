"""What measuring costs while clips are cut: motion, shots and level, against cutting without them.

    PYTHONPATH=. python benchmarks/measures.py FOLDER [--clips 60] [--preset tiny] [--turns 7] [--at-shots]

FOLDER holds videos (searched recursively). Both cut the same clips, spread over all files, in this process, and take
turns. Times are processor seconds, on which other work of the machine has little influence. `--at-shots` also gives the
survey of the files with and without the search for shot boundaries that corpus.cut_at_shots needs.
"""

import tempfile
import time
from pathlib import Path
from unittest import mock

from shard import chosen
from side_by_side import contest, parser, record, show

from shards.corpus.survey import survey
from shards.media import cut as cutting
from shards.media.cut import cut
from shards.media.probe import probe
from shards.media.shots import boundaries_between
from shards.progress import silent
from shards.sources.source import list_folder
from xdc_core.config.load import load_preset, parse_config


class NoMeter:
    """In place of the meter: it measures nothing."""

    def __init__(self, fps: float) -> None:
        pass

    def add(self, picture: object, repeated: bool) -> None:
        """Do nothing."""

    def finish(self) -> tuple[float, tuple[float, ...]]:
        """Return empty measures."""
        return 0.0, ()


def main() -> None:
    """Print the rates and their ratio."""
    arguments = parser(__doc__)
    arguments.add_argument("folder", type=Path)
    arguments.add_argument("--clips", type=int, default=60)
    arguments.add_argument("--preset", default="tiny", help="whose corpus settings to take")
    arguments.add_argument("--at-shots", action="store_true")
    given = arguments.parse_args()
    settings = parse_config(load_preset(given.preset), given.preset).corpus.model_copy(update={"silence": "keep"})
    listing = list_folder(given.folder, label_from_folder=False)
    with tempfile.TemporaryDirectory() as folder:
        found = survey(listing, [], Path(folder) / "notes", settings, silent)
    jobs = chosen(settings, listing, found, given.clips)

    def with_measures() -> float:
        began = time.process_time()
        for root, source, start_s, end_s in jobs:
            cut(Path(root) / source, start_s, end_s, settings)
        return time.process_time() - began

    def without() -> float:
        with mock.patch.object(cutting, "PictureMeter", NoMeter), mock.patch.object(cutting, "level_db", len):
            return with_measures()

    contests = [contest("cutting clips", "clips", len(jobs), {"measured": with_measures, "not": without}, given.turns)]
    show(contests[0], "measured")
    if given.at_shots:
        files = [entry for entry in found.files() if not entry.reason]

        def probing() -> float:
            began = time.process_time()
            for entry in files:
                probe(Path(listing.root) / entry.path)
            return time.process_time() - began

        def looking() -> float:
            began = time.process_time()
            for entry in files:
                boundaries_between(Path(listing.root) / entry.path, 0.0, entry.duration_s, settings)
            return time.process_time() - began + probing()

        hours = sum(entry.duration_s for entry in files) / 3600
        contestants = {"probe and boundaries": looking, "probe": probing}
        contests.append(contest("surveying files", "hours of video", hours, contestants, given.turns))
        show(contests[1], "probe and boundaries")
    record(given.out, contests=contests, clips=len(jobs))


if __name__ == "__main__":
    main()
