"""`xdc embed` against its stages one after the other on the same files: shard, then extract of each modality.

    PYTHONPATH=. python benchmarks/small_run.py RUN
    PYTHONPATH=. python benchmarks/embed.py RUN [--turns 5]

RUN has the encoders; the videos are those of its corpus. Both write the same clips and features into new directories, in
child processes, and take turns. Of `embed` all is counted that the command does: choosing and linking the encoders, the
checks, the stage `init`, and starting the processes. Of the stages only their work and the processes' starts are.
"""

import contextlib
import io
import shutil
import tempfile
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

        made = make_embedding(root / "stages", encoders_of_run(source, None, None), videos, None)
        for node in setup_of(made.config)[1:]:
            do_node(made, node, children)
        nodes = [SHARD, *(Node("extract", name, 0) for name in made.config.modalities)]
        clips = 0

        def stages() -> None:
            nonlocal clips
            for directory in (made.corpus, made.round_directory(0)):
                shutil.rmtree(directory, ignore_errors=True)
            with Children() as own:
                clips = [do_node(made, node, own).rows for node in nodes][0]

        stages()
        found = contest("embedding", "clips", clips, {EMBED: embed, STAGES: stages}, given.turns)
    show(found, EMBED)
    record(given.out, contests=[found], ratio=found.ratio(EMBED, STAGES))


if __name__ == "__main__":
    main()
