"""`xdc embed` against its stages one after the other on the same files: shard, then extract of each modality.

    PYTHONPATH=. python benchmarks/small_run.py RUN
    PYTHONPATH=. python benchmarks/embed.py RUN [--turns 5] [--processor]

RUN has the encoders; the videos are those of its corpus. Both write the same clips and features into new directories,
in child processes, and take turns. Of `embed` all is counted that the command does: choosing and linking the encoders,
the checks, the stage `init`, and starting the processes. Of the stages only their work and the processes' starts are.

--processor counts the processor seconds of all processes, on which other work of the machine has less influence. Then
`embed` gains nothing from doing both modalities at once.
"""

import contextlib
import io
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from side_by_side import contest, parser, record, show

from flows.cli.using.new_clips import embed_videos
from flows.runners.do_node import do_node
from flows.runners.forked import Children
from xdc_core.new_clips.embedding import make_embedding, setup_of
from xdc_core.new_clips.encoders import encoders_of_run
from xdc_core.runs.node import SHARD, Node
from xdc_core.runs.run import open_run

EMBED, STAGES = "xdc embed", "shard, extract, extract"


def main() -> None:
    """Print the rates and their ratio."""
    arguments = parser(__doc__)
    arguments.add_argument("run", type=Path)
    arguments.add_argument("--processor", action="store_true", help="processor seconds")
    given = arguments.parse_args()
    source = open_run(given.run)
    videos = source.videos
    assert videos is not None, "the benchmark needs the run's videos"
    with tempfile.TemporaryDirectory() as folder, Children() as children:
        root = Path(folder)

        def embed() -> None:
            with contextlib.redirect_stderr(io.StringIO()):
                embed_videos(source.root, videos, root / "embed", None, None, None)
            shutil.rmtree(root / "embed")

        made = make_embedding(root / "stages", encoders_of_run(source, None, source.config.modalities), videos, None)
        for node in setup_of(made.config)[1:]:
            do_node(made, node, children)
        nodes = [SHARD, *(Node("extract", name, 0) for name in made.config.modalities)]
        clips = 0

        def stages() -> None:
            nonlocal clips
            for directory in (made.corpus, made.round_directory(0)):
                shutil.rmtree(directory, ignore_errors=True)
            with Children() as own:
                clips, *_ = [do_node(made, node, own).rows for node in nodes]

        def timed(work: Callable[[], None]) -> Callable[[], float | None]:
            def seconds() -> float | None:
                before = sum(os.times()[:4])
                work()
                return sum(os.times()[:4]) - before if given.processor else None

            return seconds

        stages()
        contestants = {EMBED: timed(embed), STAGES: timed(stages)}
        found = contest("embedding", "clips", clips, contestants, given.turns)
    show(found, EMBED)
    record(given.out, contests=[found], ratio=found.ratio(EMBED, STAGES), processor=given.processor)


if __name__ == "__main__":
    main()
