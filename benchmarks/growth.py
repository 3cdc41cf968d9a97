"""What every stage costs as a corpus grows: seconds, peak memory, bytes and files at 1, 10 and 100 times the clips.

    PYTHONPATH=. python benchmarks/growth.py RUN [--clips 250] [--times 1 10 100] [--plot growth.svg]

RUN is a run whose corpus has a folder or manifest of videos (that of `make demo`, or of small_run.py). As many files as
needed are hard links to its first --clips; each is probed, hashed, cut and decoded like any other. Round 0 is done by
the ordinary stages, each alone in a new process. A round trains on a fixed number of clips, and k-means on a fixed
sample (here 1,000 clips), so those two should not grow but for what they read of all clips.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
from side_by_side import parser, record

from shards.corpus.listing import list_corpus
from shards.store.files import write_text
from xdc_core.config.load import FILE_NAME, parse_config
from xdc_core.config.write import commented_yaml
from xdc_core.encoders.registry import encoder_spec
from xdc_core.graph.stages import round_nodes, setup_nodes
from xdc_core.runs.node import Node
from xdc_core.runs.run import Run, open_run

SAMPLE = 1000


@dataclass(frozen=True)
class Cost:
    """Of one stage at one size: wall and processor seconds, peak resident MB, and what it stores."""

    stage: str
    clips: int
    seconds: float
    cpu_seconds: float
    peak_mb: float
    stored_mb: float
    files: int


def grown(source: Run, root: Path, clips: int, distinct: int) -> Run:
    """A run with nothing done on `clips` files, of which `distinct` differ."""
    assert source.videos is not None
    listing = list_corpus(source.videos)
    (root / "videos").mkdir(parents=True)
    names = []
    for number in range(clips):
        file = listing.root / listing.sources[number % min(distinct, len(listing.sources))].path
        names.append(f"{number:06d}{file.suffix}")
        os.link(file, root / "videos" / names[-1])
    pa.csv.write_csv(pa.table({"path": names}), root / "videos" / "manifest.csv")
    values = source.config.model_dump()
    width = max(encoder_spec(source.config.video.encoder).width, encoder_spec(source.config.audio.encoder).width)
    values |= {"rounds": 1, "evaluate": {}, "datasets": {}, "report": values["report"] | {"track": []}}
    values["corpus"] |= {"videos": "videos/manifest.csv", "path": "corpus", "learn_splits": None}
    values["cluster"] |= {"sample_mb": SAMPLE * width * 4 / 1e6}
    values["train"] |= {"clips": 20 * values["train"]["batch"]}
    write_text(root / FILE_NAME, commented_yaml(parse_config(values, "the benchmark's settings")))
    return open_run(root)


def cost(run: Run, node: Node, clips: int) -> Cost:
    """Do a node in a process of its own."""
    words = [word for word in (node.modality, None if node.round is None else str(node.round)) if word is not None]
    began = time.perf_counter()
    command = [sys.executable, "-m", "xdc_core", node.stage, str(run.root), *words]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{node} failed with status {status}")
    files = [path for path in run.directory(node).rglob("*") if path.is_file()]
    stored = sum(path.stat().st_size for path in files) / 1e6
    cpu = usage.ru_utime + usage.ru_stime
    return Cost(node.name, clips, time.perf_counter() - began, cpu, usage.ru_maxrss / 1024, stored, len(files))


def main() -> None:
    """Print a table; --plot draws it."""
    arguments = parser(__doc__)
    arguments.add_argument("run", type=Path)
    arguments.add_argument("--clips", type=int, default=250)
    arguments.add_argument("--times", type=int, nargs="+", default=[1, 10, 100])
    arguments.add_argument("--plot", type=Path, help="an SVG of seconds and memory over the number of clips")
    given = arguments.parse_args()
    source = open_run(given.run)
    costs: list[Cost] = []
    # Beside the videos: hard links do not cross file systems.
    with tempfile.TemporaryDirectory(dir=source.root) as folder:
        for times in given.times:
            clips = given.clips * times
            run = grown(source, Path(folder) / str(clips), clips, given.clips)
            for node in (*setup_nodes(run.config), *round_nodes(run.config, 0)):
                costs.append(cost(run, node, clips))
                print(json.dumps(asdict(costs[-1])), flush=True)
    show(costs)
    record(given.out, costs=[asdict(each) for each in costs])
    if given.plot:
        plot(costs, given.plot)


def by_stage(costs: list[Cost]) -> dict[str, list[Cost]]:
    """In the order of the stages, and of the clips."""
    found: dict[str, list[Cost]] = {}
    for each in costs:
        found.setdefault(each.stage, []).append(each)
    return found


def show(costs: list[Cost]) -> None:
    """A row a stage: wall seconds, peak MB and MB stored at every size."""
    sizes = sorted({each.clips for each in costs})
    for what, title in (("seconds", "wall seconds"), ("peak_mb", "peak MB"), ("stored_mb", "MB stored")):
        print(f"\n{title:<16}" + "".join(f"{size:>12,}" for size in sizes) + " clips")
        for stage, row in by_stage(costs).items():
            print(f"{stage:<16}" + "".join(f"{getattr(each, what):>12,.1f}" for each in row))


def plot(costs: list[Cost], path: Path) -> None:
    """Two panels over the number of clips, both axes logarithmic for seconds, memory from zero."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.5), layout="constrained")
    FigureCanvasSVG(figure)
    seconds, memory = figure.subplots(1, 2)
    for number, (stage, row) in enumerate(by_stage(costs).items()):
        style = {"marker": "o", "linestyle": ("-", "--", ":")[number // 10], "label": stage}
        seconds.plot([each.clips for each in row], [each.seconds for each in row], **style)
        memory.plot([each.clips for each in row], [each.peak_mb for each in row], **style)
    for axes, title in ((seconds, "wall seconds"), (memory, "peak memory, MB")):
        axes.set(xscale="log", xlabel="clips", title=title)
        axes.grid(alpha=0.3)
    seconds.set_yscale("log")
    memory.set_ylim(bottom=0)
    memory.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    main()
