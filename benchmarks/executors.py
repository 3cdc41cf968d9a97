"""What the executors cost: the local one against an older commit, and one unit of each against the same in-process.

    git worktree add ../before COMMIT
    PYTHONPATH=. python benchmarks/executors.py stages FOLDER --before ../before [--clips 200] [--turns 7]
    PYTHONPATH=.:benchmarks python benchmarks/executors.py units FOLDER [--executor slurm --settings '{"cpus": 1}']

PYTHONPATH is as on the second line also where a Ray cluster is started: its workers import this file.

`stages`: every stage of round 0 of a run on audio-visual digits is rebuilt again and again, in turns by this tree and
by the tree --before, each by its own fork servers, as `xdc run` does it. The videos are the same, the runs and corpora
are not. A ratio is that of two rebuilds that follow each other; it is above 1 where this tree is faster.

`units`: units that store an empty file, by the executor and in this process. `first s` is the time to the first
receipt: workers start, and import torch (but for those of `local`, which are forked with it). `ms/unit` is a worker's
time per unit between the first receipt and the last: the seconds between them, times the processes that the receipts
name, so that a worker's wait for its start or its units counts, too.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from side_by_side import contest, parser, record, show

STAGES = ("shard", "init", "extract", "cluster", "label", "train", "report")
PER_MINUTE = 0.02  # Of a unit of a minute, which is the longest that a unit should take.


def main() -> None:
    """Print a table."""
    if sys.argv[1:2] == ["serve"]:
        serve(Path(sys.argv[2]))
        return
    arguments = parser(__doc__)
    arguments.add_argument("what", choices=("stages", "units"))
    arguments.add_argument("folder", type=Path, help="for runs; on a shared disk for an executor with other machines")
    arguments.add_argument("--before", type=Path, help="a tree of the older commit")
    arguments.add_argument("--clips", type=int, default=200)
    arguments.add_argument("--stages", nargs="+", default=STAGES)
    arguments.add_argument("--executor", default="local")
    arguments.add_argument("--settings", type=json.loads, default={"workers": 2}, help="its settings, as JSON")
    arguments.add_argument("--units", type=int, default=2000)
    given = arguments.parse_args()
    if given.what == "stages":
        compare_stages(given)
    else:
        compare_units(given)


# --- Stages, by this tree and by an older one.


def serve(root: Path) -> None:
    """Rebuild a node per line of stdin, and answer with the seconds. PYTHONPATH decides which tree this is."""
    import flows
    from flows.runners.forked import Children
    from xdc_core.runs.node import Node
    from xdc_core.runs.run import open_run

    run = open_run(root)
    print(Path(flows.__file__).parents[1], flush=True)
    with Children() as children:
        for line in sys.stdin:
            began = time.perf_counter()
            children.run_stage(run, Node(*json.loads(line)), force=True)
            print(time.perf_counter() - began, flush=True)


def served(tree: Path, root: Path) -> Callable[[list[Any]], float]:
    """Return what rebuilds a node with the code of a tree, and returns the seconds."""
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).resolve()), "serve", str(root.resolve())],
        cwd=tree,
        env=os.environ | {"PYTHONPATH": str(tree.resolve())},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    where = process.stdout.readline().strip()
    if Path(where) != tree.resolve():
        raise SystemExit(f"the code of {tree} was wanted, but that of {where} was imported")

    def rebuild(node: list[Any]) -> float:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(node) + "\n")
        process.stdin.flush()
        if not (line := process.stdout.readline()):
            raise SystemExit(f"{node} failed in {tree}, see {root / 'logs'}")
        return float(line)

    return rebuild


def compare_stages(given: argparse.Namespace) -> None:
    """Rebuild every stage with both trees in turns, and show the ratios."""
    import yaml
    from small_run import digits

    from shards.store.files import write_text
    from xdc_core.config.load import FILE_NAME, load_preset
    from xdc_core.graph.stages import round_nodes, setup_nodes
    from xdc_core.runs.run import open_run

    if given.before is None:
        raise SystemExit("--before is missing: a tree of the commit to compare with")
    folder = given.folder.resolve()
    videos = folder / "media" / "manifest.csv"
    if not videos.exists():
        videos = digits(folder, given.clips)
    values = load_preset("digits")
    values["rounds"] = 1
    values["corpus"] |= {"videos": str(videos), "path": "corpus", "clips_per_shard": max(1, given.clips // 8)}
    values["train"] |= {"clips": 2 * given.clips}
    trees = {"this": Path(__file__).resolve().parents[1], "before": given.before.resolve()}
    sides = {}
    for name, tree in trees.items():
        shutil.rmtree(folder / name, ignore_errors=True)
        # Each tree has its own defaults for what is not set: the older one need not know all settings of this one.
        write_text(folder / name / FILE_NAME, yaml.safe_dump(values))
        sides[name] = served(tree, folder / name)
    config = open_run(folder / "this").config
    nodes = [[node.stage, node.modality, node.round] for node in (*setup_nodes(config), *round_nodes(config, 0))]
    found = []
    for node in nodes:
        # The first rebuild, which warms up, is needed of all: later stages read it.
        turns = given.turns if node[0] in given.stages else 0
        contestants = {name: lambda rebuild=rebuild, node=node: rebuild(node) for name, rebuild in sides.items()}
        title = ".".join(str(part) for part in node[:2] if part is not None)
        found.append(contest(title, "clips", given.clips, contestants, turns))
        if turns:
            show(found[-1], "this")
    print(f"{'':<20}{'this s':>10}{'before s':>10}{'ratio':>10}{'quartiles':>18}")
    for each in (each for each in found if each.seconds["this"]):
        pairs = zip(each.seconds["this"], each.seconds["before"], strict=True)
        ratios = sorted(other / own for own, other in pairs)
        low, _, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else (ratios[0], 0, ratios[0])
        medians = [statistics.median(each.seconds[name]) for name in ("this", "before")]
        print(
            f"{each.title:<20}{medians[0]:>10.3f}{medians[1]:>10.3f}{statistics.median(ratios):>10.3f}"
            f"{f'{low:.3f} to {high:.3f}':>18}"
        )
    record(given.out, contests=found)


# --- One unit, by an executor and in this process.


def store_nothing(arguments: dict[str, Any], shards: list[str], advance: Any) -> Iterator[Any]:
    """Store an empty file a shard: the work of a unit."""
    import torch  # noqa: F401 - as the work of a stage imports it

    from shards.store.receipt import new_shard

    for shard in shards:
        with new_shard(Path(arguments["out"]), shard) as new:
            new.notes = {"process": f"{platform.node()} {os.getpid()}"}
            (new.folder / f"{shard}.txt").touch()
        yield new.stored


def unit_times(executor: Any, folder: Path, count: int) -> tuple[float, float, int]:
    """Do empty units. Return the seconds to the first receipt, a worker's seconds per unit, and how many workers."""
    from shards.store.executor import Job, Unit
    from shards.store.receipt import begin_units

    out = folder / ".units-of-a-benchmark.partial"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    shards = [f"{number:06d}" for number in range(count)]
    begin_units(out, shards)
    times: list[float] = []
    processes: set[str] = set()

    def received(receipt: Any) -> None:
        times.append(time.perf_counter())
        processes.add(receipt.notes["process"])

    job = Job("empty units", "executors:store_nothing", {"out": str(out)}, str(out), str(folder / "logs"), "torch")
    began = time.perf_counter()
    units = (Unit(number, (shard,)) for number, shard in enumerate(shards))
    executor.run(job, units, received, lambda *_: None)
    assert len(times) == count
    shutil.rmtree(out)
    return times[0] - began, len(processes) * (times[-1] - times[0]) / (count - 1), len(processes)


def compare_units(given: argparse.Namespace) -> None:
    """Do empty units by the executor and in this process, in turns, and show the overhead of one."""
    from flows.executors.registry import check_executor, executor_of
    from shards.store.executor import IN_PROCESS
    from xdc_core.config.schema import RunsOn

    folder = given.folder.resolve()
    runs_on = RunsOn.model_validate({"executor": given.executor, "executor_settings": given.settings, "device": "cpu"})
    check_executor(runs_on)
    if given.executor == "local":
        import torch  # noqa: F401 - as the fork server has, before it forks the process of a stage
    executor = executor_of(runs_on)
    rows: dict[str, list[tuple[float, float, int]]] = {"in process": [], given.executor: []}
    for _ in range(given.turns):
        for name, each in (("in process", IN_PROCESS), (given.executor, executor)):
            rows[name].append(unit_times(each, folder, given.units))
    print(f"{given.units} empty units, {given.turns} turns; {given.executor}: {json.dumps(given.settings)}")
    print(f"{'':<14}{'first s':>12}{'ms/unit':>12}{'lowest':>12}{'highest':>12}{'workers':>12}")
    for name, times in rows.items():
        each_ms = [1e3 * rest for _, rest, _ in times]
        starts = statistics.median(first for first, _, _ in times)
        numbers = (starts, statistics.median(each_ms), min(each_ms), max(each_ms))
        most = max(workers for _, _, workers in times)
        print(f"{name:<14}" + "".join(f"{value:>12.3f}" for value in numbers) + f"{most:>12}")
    pairs = zip(rows[given.executor], rows["in process"], strict=True)
    extra = statistics.median(own[1] - plain[1] for own, plain in pairs)
    print(f"one unit's overhead: {1e3 * extra:.2f} ms, {100 * extra / 60:.4f} % of a minute", end=" ")
    print(f"(at most {100 * PER_MINUTE:g} %)")
    record(given.out, executor=given.executor, settings=given.settings, overhead_s=extra, times=rows)


if __name__ == "__main__":
    main()
