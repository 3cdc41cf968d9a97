"""How long a person waits for `xdc --help`, and for `xdc status` of a run of many rounds.

    PYTHONPATH=. python benchmarks/start.py [--rounds 100]

Each is a new process. Every directory of the run is really there and committed; what its stage would have put into it
is left out.
"""

import statistics
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from side_by_side import contest, parser, record

from shards.corpus.generation import read_as
from shards.store.build import Outcome
from shards.store.files import write_text
from shards.store.stage import Task
from xdc_core.config.load import FILE_NAME, load_preset, parse_config
from xdc_core.config.write import commented_yaml
from xdc_core.graph.run_stage import run_stage
from xdc_core.graph.stages import STAGES, all_nodes
from xdc_core.runs.run import open_run


def nothing(task: Task[Any]) -> Outcome:
    """In place of every stage."""
    write_text(task.out / "nothing.json", "{}")
    return Outcome(1, 0, {"nmi_previous": 0.5, "loss": 1.0})


def long_run(root: Path, rounds: int) -> int:
    """A run of so many rounds; returns the number of its directories."""
    from shards.digits.corpus import write_digits
    from shards.digits.settings import DigitsSettings

    videos = write_digits(root / "media", DigitsSettings(clips=2))
    values = parse_config(load_preset("digits"), "preset digits").model_dump()
    values |= {"rounds": rounds}
    values["corpus"] |= {"videos": str(videos), "path": "corpus"}
    write_text(root / FILE_NAME, commented_yaml(parse_config(values, "the benchmark")))
    run = open_run(root)
    STAGES.update({name: replace(stage, work=nothing) for name, stage in STAGES.items()})
    nodes = list(all_nodes(run.config))
    corpus = None
    for node in nodes:
        done = run_stage(run, node, corpus_read_as=corpus)
        corpus = corpus or read_as(done)
    return len(nodes)


def main() -> None:
    """Print the table."""
    arguments = parser(__doc__)
    arguments.add_argument("--rounds", type=int, default=100)
    given = arguments.parse_args()

    def command(*words: str) -> None:
        subprocess.run([str(Path(sys.executable).parent / "xdc"), *words], check=True, capture_output=True)

    with tempfile.TemporaryDirectory() as folder:
        nodes = long_run(Path(folder), given.rounds)
        contestants: dict[str, Any] = {
            "xdc --help": lambda: command("--help"),
            f"xdc status, {given.rounds} rounds": lambda: command("status", folder),
            f"xdc status --nodes, {nodes} nodes": lambda: command("status", folder, "--nodes"),
            "python -c pass": lambda: subprocess.run([sys.executable, "-c", "pass"], check=True),
        }
        found = contest("starting", "calls", 1, contestants, given.turns)
    for name, seconds in found.seconds.items():
        print(f"{name:<36}{statistics.median(seconds):>8.2f} s  ({min(seconds):.2f} to {max(seconds):.2f})")
    record(given.out, contests=[found], nodes=nodes)


if __name__ == "__main__":
    main()
