"""What orchestration costs a round: wall time of the flow less the time in which a stage was in progress.

    prefect server start &     (and PREFECT_API_URL set to it)
    PYTHONPATH=. python benchmarks/orchestration.py RUN [--rounds 2]

RUN is a run with a finished corpus. A new run with its configuration is made on the same corpus; each round is a flow
run of `xdc-round` in this process. The latter is the union of the stages' own times (from their manifests), since
modalities run side by side: everything else (Prefect, starting children, loading torch and faiss) is orchestration.
The first round pays for loading torch; the last line is the same round again, everything reused.
"""

import datetime
import os
import tempfile
import time
from pathlib import Path

from side_by_side import parser, record

from flows.server.prefect_defaults import set_defaults
from shards.store.files import write_text
from shards.store.manifest import read_manifest
from xdc_core.config.write import commented_yaml
from xdc_core.graph.stages import round_nodes, setup_nodes
from xdc_core.runs.node import SHARD
from xdc_core.runs.run import Run, open_run


def seconds_in_stages(run: Run, number: int, since: float) -> float:
    """Seconds, after the time `since` (epoch), in which at least one stage of a round was in progress."""
    spans = []
    for node in (*setup_nodes(run.config), *round_nodes(run.config, number)):
        manifest = read_manifest(run.directory(node))
        if manifest is None or node == SHARD:
            continue
        end = datetime.datetime.fromisoformat(manifest.finished).timestamp()
        if end > since:
            spans.append((end - manifest.seconds, end))
    total, reached = 0.0, since
    for first, last in sorted(spans):
        total += max(0.0, last - max(first, reached))
        reached = max(reached, last)
    return total


def main() -> None:
    """Print a line a round."""
    options = parser(__doc__)
    options.add_argument("run", type=Path)
    options.add_argument("--rounds", type=int, default=2)
    arguments = options.parse_args()
    rows = []
    set_defaults(quiet=True)
    from flows.orchestration.xdc_round import xdc_round
    from flows.runners.forked import CHILDREN

    if not os.environ.get("PREFECT_API_URL"):
        print("PREFECT_API_URL is not set: the first round includes the start of a temporary server.")
    source = open_run(arguments.run)
    with tempfile.TemporaryDirectory() as folder:
        corpus = source.config.corpus.model_copy(update={"path": str(source.corpus), "videos": None})
        config = source.config.model_copy(update={"corpus": corpus, "rounds": arguments.rounds})
        write_text(Path(folder) / "xdc.yaml", commented_yaml(config))
        run = open_run(folder)
        print("round          wall s   stages s   orchestration s")
        for number in (*range(arguments.rounds), arguments.rounds - 1):
            since, clock = time.time(), time.monotonic()
            state = xdc_round(folder, number, return_state=True)
            wall = time.monotonic() - clock
            if not state.is_completed():
                raise SystemExit(state.message)
            work = seconds_in_stages(run, number, since)
            name = f"{number}" if work else f"{number} (reused)"
            print(f"{name:<12}{wall:>9.1f}{work:>11.1f}{wall - work:>18.1f}", flush=True)
            rows.append({"round": name, "wall_s": wall, "stages_s": work, "orchestration_s": wall - work})
        CHILDREN.close()
    record(arguments.out, rounds=rows)


if __name__ == "__main__":
    main()
