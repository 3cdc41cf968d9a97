"""Kill every stage at every named point, and a whole run at random instants; resume; compare. Prints a table.

    python -m tests.faults.sweep OUT [--points] [--sample N] [--instants N] [--xdc-run N] [--stage NAME] [--seed N]

OUT is a folder on a disk with some 100 MB of room; OUT/results.json gets every trial, and trials that stand there are
not done again: a sweep that was stopped goes on. Exits with 1 where a trial failed.

What counts is what SIGKILL ended. An attempt that finished before its kill came is told of and counts for nothing; one
that ended with an error of its own is a trial that failed.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from shards.store.files import part_name
from tests.faults.crash import MARK, ended, family, forked, kill_tree, survivors
from tests.faults.small_run import write_small_run, write_videos
from tests.faults.traces import contents, differences, left_over
from tests.places import ROOT
from tests.preload import preload

Work = Callable[[Path], Callable[[], object]]  # Of a run's directory: what is done in a process of its own.


@dataclass(frozen=True)
class Trial:
    """What became of one run. `trouble`: what was not as it should be; empty where all was.

    `kills`: attempts at the run that were ended by SIGKILL. `early`: attempts that had finished before that.
    """

    row: str
    point: str
    trouble: tuple[str, ...]
    seconds: float
    kills: int = 1
    early: int = 0


def check(run: Any, *expected: str) -> list[str]:
    """What `xdc verify` finds in a run, but what is stale (some cases change a setting of one stage) or `expected`."""
    from xdc_core.inspection.verification import verify_run

    found = [finding for finding in verify_run(run) if finding.kind not in ("unfinished", *expected)]
    return [f"{finding.kind}: {finding.path}: {finding.what}" for finding in found]


def stage_work(root: Path, node: Any, force: bool = False) -> Callable[[], object]:
    """One stage, the ordinary way."""
    from xdc_core.graph.run_stage import run_stage
    from xdc_core.runs.run import open_run

    return lambda: run_stage(open_run(root), node, force)


def stage_resumed(root: Path, node: Any, forced: bool) -> Callable[[], object]:
    """The stage by the way, as `xdc run` does it; then everything there must be sound.

    What a call with `force` was to make anew is damaged. As long as nothing has taken its place it is forced again.
    """
    from xdc_core.runs.run import open_run

    def work() -> None:
        run = open_run(root)
        damaged = forced and any(str(run.directory(node)) in found for found in check(run, "left over", "set aside"))
        stage_work(root, node)()
        if damaged:
            stage_work(root, node, force=True)()
        stage_work(root, node)()  # What is finished is reused, and cleared up.
        if found := check(run, *(["set aside"] if forced else [])):
            raise AssertionError("; ".join(found))

    return work


def clean_work(root: Path) -> Callable[[], object]:
    """`xdc clean --stale`."""
    from xdc_core.cleaning.clean import clean
    from xdc_core.runs.run import open_run

    return lambda: clean(open_run(root), stale=True)


def clean_resumed(root: Path) -> Callable[[], object]:
    """What a killed one has left must be sound, and no work for a run; the next one removes the rest."""
    from xdc_core.graph.run_stage import all_fresh
    from xdc_core.graph.stages import all_nodes
    from xdc_core.runs.run import open_run

    def work() -> None:
        run = open_run(root)
        found = check(run, "left over")
        if not all_fresh(run, all_nodes(run.config)):
            found.append("the run is not finished any more")
        clean_work(root)()
        if found := [*found, *check(run)]:
            raise AssertionError("; ".join(found))

    return work


def assign_work(root: Path) -> Callable[[], object]:
    """The clusters of a run's own clips, as `xdc assign` writes them."""
    from xdc_core.new_clips.assignment import assign
    from xdc_core.new_clips.clusters import clusters_of_run, sources_of_run
    from xdc_core.new_clips.parts import parts_of_run
    from xdc_core.runs.run import open_run

    def work() -> None:
        run = open_run(root)
        for own in clusters_of_run(run, 0, sources_of_run(run)):
            assign(root / "assigned" / own.source, own, parts_of_run(run, 0, own.modalities), run.config.runs_on)

    return work


def run_work(root: Path) -> Callable[[], object]:
    """All stages of a run, one after the other."""
    from xdc_core.graph.run_stage import run_stage
    from xdc_core.graph.stages import all_nodes
    from xdc_core.runs.run import open_run

    def work() -> None:
        run = open_run(root)
        for node in all_nodes(run.config):
            run_stage(run, node)

    return work


def run_resumed(root: Path) -> Callable[[], object]:
    from xdc_core.runs.run import open_run

    def work() -> None:
        run_work(root)()
        if found := check(open_run(root)):
            raise AssertionError("; ".join(found))

    return work


def tail(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines() if log.exists() else []
    return lines[-1][:300] if lines else "no output"


def copied(source: Path, target: Path) -> Path:
    """A copy of a run in the folder `target`, under the name `run`, for reports tell it. Its files are links: stages
    replace files, they do not write into them.
    """
    if target != source.parent:
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(source, target / "run", copy_function=os.link)
    return target / "run"


def broken_off(
    shares: list[float], whole: float, attempt: Callable[[float], tuple[int, int]], log: Path
) -> tuple[list[str], int, int]:
    """Attempts at a run of `whole` seconds, each killed after a share of what is left of them.

    `attempt` is called with the seconds after which it kills, and returns the exit code and how many processes
    survived. Returns what was wrong, how many SIGKILL ended, and how many (0 or 1) had finished before.
    """
    trouble, kills, left = list[str](), 0, whole
    for number, share in enumerate(shares, start=1):
        code, living = attempt(share * left)
        if living:
            trouble.append(f"{living} processes survived")
        if code == 0:
            return trouble, kills, 1
        if code != -signal.SIGKILL:
            return [*trouble, f"attempt {number} ended by itself with {code}: {tail(log)}"], kills, 0
        kills += 1
        left -= share * left
    return trouble, kills, 0


class Sweep:
    """Trials done so far, in a file; and where they are done."""

    def __init__(self, out: Path, sample: int | None, seed: int) -> None:
        self.out, self.file, self.sample, self.seed = out, out / "results.json", sample, seed
        self.dice = random.Random(seed)
        noted = json.loads(self.file.read_text()) if self.file.exists() else []
        # Of runs killed at random instants older sweeps noted what was planned, not what was killed: once more.
        self.trials = [Trial(**found) for found in noted if "kills" in found or "random" not in found["row"]]
        self.done = {(trial.row, trial.point) for trial in self.trials}
        self.log = out / "log.txt"

    def note(self, row: str, point: str, trouble: list[str], since: float, kills: int, early: int = 0) -> None:
        self.trials.append(Trial(row, point, tuple(trouble), round(time.monotonic() - since, 2), kills, early))
        temporary = self.file.with_suffix(".new")
        temporary.write_text(json.dumps([asdict(trial) for trial in self.trials], indent=1))
        temporary.replace(self.file)
        print(f"{'FAILED' if trouble else 'ok':7}{row:40}{point:44}{self.trials[-1].seconds:6.1f} s", flush=True)
        for line in [*trouble, *(["finished before a kill came, which does not count"] if early else [])]:
            print(f"        {line}", flush=True)

    def points(self, title: str, before: Path, node: Any, force: bool = False) -> Path:
        """Kill a stage at all of its points, as `at_points`. Returns the run as it stands after."""
        works = partial(stage_work, node=node, force=force), partial(stage_resumed, node=node, forced=force)
        return self.at_points(title, before, *works)

    def at_points(self, title: str, before: Path, works: Work, resumed: Work) -> Path:
        """Kill a work at all of its points; at one that is passed often the first, the middle and the last time.

        `before` is the run as it stands before; returns it as it stands after.
        """
        after, points = copied(before, self.out / "after"), self.out / "points.txt"
        points.unlink(missing_ok=True)
        process = forked(works(after), self.log, f"trace:{points}")
        if ended(process) or not points.exists():
            raise SystemExit(f"{title} does not work at all: {tail(self.log)}")
        wanted = contents(after)
        counts = Counter(points.read_text().splitlines())
        passed = [(point, number) for point, n in counts.items() for number in sorted({1, (n + 1) // 2, n})]
        if self.sample is not None:
            # And always after the work, before its commit: what the summary says must survive.
            last = [found for found in passed if found[0] == "before commit"]
            passed = [found for found in passed if found not in last]
            passed = [*self.dice.sample(passed, min(self.sample, len(passed))), *last]
        for point, number in passed:
            name = f"{point} #{number}" if counts[point] > 1 else point
            if (title, name) not in self.done:
                self._point(title, name, f"kill:{number}:{point}", before, works, resumed, wanted)
        return after

    def _point(
        self, title: str, name: str, order: str, before: Path, works: Work, resumed: Work, wanted: dict[str, bytes]
    ) -> None:
        since, root, log = time.monotonic(), copied(before, self.out / "trial"), self.log
        process = forked(works(root), log, order)
        code, trouble = ended(process), []
        kills = int(code == -signal.SIGKILL)
        if not kills:
            trouble.append(f"the point was not reached (exit code {code}: {tail(log)})")
        if left := survivors(process):
            trouble.append(f"{len(left)} processes survived")
        if code := ended(forked(resumed(root), log)):
            trouble.append(f"resumed, it ended with {code}: {tail(log)}")
        self.note(title, name, trouble + self._compared(root, wanted), since, kills)

    def _compared(self, root: Path, wanted: dict[str, bytes]) -> list[str]:
        other = differences(contents(root), wanted)
        trouble = [f"{len(other)} files are not those of an undisturbed run: {', '.join(other[:5])}"] if other else []
        left = left_over(root)
        return [*trouble, *([f"left over: {', '.join(left)}"] if left else [])]

    def instants(self, title: str, fresh: Path, count: int, whole: float, wanted: Any) -> None:
        """Kill the whole tree of a run, up to three times before it may finish, at random instants."""
        for name, shares in self._draws(title, count, (1, 1, 2, 3)):
            since, root = time.monotonic(), copied(fresh, self.out / "trial")

            def attempt(at: float, root: Path = root) -> tuple[int, int]:
                process = forked(run_work(root), self.log)
                time.sleep(at)
                kill_tree(process)
                return ended(process), len(survivors(process))

            trouble, kills, early = broken_off(shares, whole, attempt, self.log)
            if code := ended(forked(run_resumed(root), self.log)):
                trouble.append(f"resumed, it ended with {code}: {tail(self.log)}")
            self.note(title, name, trouble + self._compared(root, wanted), since, kills, early)

    def commands(self, fresh: Path, count: int, wanted: Any) -> None:
        """The same with `xdc run`, its Prefect server and its fork servers, each in a process group of its own."""
        from xdc_core.runs.run import open_run

        title, whole = "xdc run, random instants", 0.0
        for name, shares in self._draws(title, count, (1, 2, 3)):
            since = time.monotonic()
            if not whole:
                if self._command(copied(fresh, self.out / "trial"))[0]:
                    raise SystemExit(f"xdc run does not work at all: {tail(self.log)}")
                whole, since = time.monotonic() - since, time.monotonic()
            root = copied(fresh, self.out / "trial")
            trouble, kills, early = broken_off(shares, whole, partial(self._command, root), self.log)
            code, left = self._command(root)
            if code:
                trouble.append(f"resumed, xdc run ended with {code}: {tail(self.log)}")
            if left:
                trouble.append(f"{left} processes survived")
            trouble += check(open_run(root)) + self._compared(root, wanted)
            self.note(title, name, trouble, since, kills, early)

    def _draws(self, title: str, count: int, attempts: tuple[int, ...]) -> Iterator[tuple[str, list[float]]]:
        """Names of the trials that are not done, and when to kill: shares of what is left. The same for a seed."""
        dice = random.Random(f"{self.seed} {title}")
        for number in range(count):
            shares = [dice.random() for _ in range(dice.choice(attempts))]
            name = f"{number:03d}: at " + ", ".join(f"{share:.2f}" for share in shares)
            if (title, name) not in self.done:
                yield name, shares

    def _command(self, root: Path, kill_at: float | None = None) -> tuple[int, int]:
        """`xdc run`, killed with everything it started after so many seconds. Its exit code, and how many survived."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
        mark = f"{os.getpid()}-{time.monotonic_ns()}"
        with self.log.open("a") as log:
            starter = subprocess.Popen(
                [sys.executable, "-m", "flows.cli", "run", str(root)],
                env=kept | {"PREFECT_HOME": str(self.out / "prefect"), MARK: mark},
                cwd=ROOT,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
            try:
                starter.wait(kill_at)
            except subprocess.TimeoutExpired:
                kill_tree(starter.pid, mark)
            starter.wait()
        return starter.returncode, len(survivors(starter.pid, mark=mark))

    def table(self) -> str:
        """A row a kind of fault."""
        rows = [
            "| stage or run | kills tried | resumed, finished | bytes equal, nothing left | share |",
            "|---|---|---|---|---|",
        ]
        for row in dict.fromkeys(trial.row for trial in self.trials):
            own = [trial for trial in self.trials if trial.row == row]
            tried = sum(trial.kills for trial in own)
            finished = sum(trial.kills for trial in own if not any("resumed" in text for text in trial.trouble))
            equal = sum(trial.kills for trial in own if not trial.trouble)
            rows.append(f"| {row} | {tried} | {finished} | {equal} | {f'{equal / tried:.0%}' if tried else '-'} |")
        failed, early = sum(bool(trial.trouble) for trial in self.trials), sum(trial.early for trial in self.trials)
        said = f"{len(self.trials)} trials, {failed} failed. {early} attempts finished before their kill: not counted."
        return "\n".join([*rows, "", said])


def change(root: Path, **sections: dict[str, Any]) -> None:
    """Write other settings into a run's xdc.yaml."""
    from xdc_core.config.load import FILE_NAME, parse_config
    from xdc_core.config.write import commented_yaml
    from xdc_core.runs.run import open_run

    values = open_run(root).config.model_dump()
    for section, given in sections.items():
        values[section] |= given
    (root / FILE_NAME).unlink()  # It is a link to another run's.
    (root / FILE_NAME).write_text(commented_yaml(parse_config(values, "a trial"), ""), encoding="utf-8")


def sweep_points(sweep: Sweep, fresh: Path, only: str | None) -> None:
    """Every stage as it is done for the first time; then a stage that is replaced, restored, or forced."""
    from xdc_core.graph.stages import all_nodes
    from xdc_core.runs.node import Node
    from xdc_core.runs.run import open_run
    from xdc_core.search.index_stage import index_node
    from xdc_core.search.maps_stage import maps_node
    from xdc_core.search.spaces import Space

    state = copied(fresh, sweep.out / "state")
    searched = (maps_node(0), *(index_node(Space(of, "video"), 0) for of in ("video", "audio")))
    for node in (*all_nodes(open_run(state).config), *searched):
        if only is None or only == node.stage:
            after = sweep.points(str(node), state, node)
        else:
            after = copied(state, sweep.out / "after")
            if ended(forked(stage_work(after, node), sweep.log)):
                raise SystemExit(f"{node} does not work: {tail(sweep.log)}")
        shutil.rmtree(state)
        after.rename(state)  # Both are named `run`.
    if only in (None, "clean"):
        full = copied(state, sweep.out / "full")
        (full / f"rounds/000/labels/.video.{'b' * 12}.partial").mkdir()
        sweep.at_points("clean", full, clean_work, clean_resumed)
    if only in (None, "assign"):
        sweep.at_points("assign", copied(state, sweep.out / "full"), assign_work, assign_work)
    if only in (None, "grown"):
        sweep_grown(sweep, state)
    if only in (None, "cases"):
        node = Node("cluster", "audio", 0)
        change(state, cluster={"iterations": 3})
        replaced = sweep.points("cluster.audio, replaced", state, node)
        changed = copied(replaced, sweep.out / "changed")
        change(changed, cluster={"iterations": open_run(fresh).config.cluster.iterations})
        sweep.points("cluster.audio, restored", changed, node)
        label = Node("label", "video", 0)
        begun, everything = copied(replaced, sweep.out / "begun"), copied(replaced, sweep.out / "everything")
        change(everything, cluster={"iterations_over_all": 2})
        sweep.points("cluster.audio, over all clips", everything, node)
        balanced = copied(replaced, sweep.out / "balanced")
        change(balanced, label={"assign": "balanced", "iterations": 2})
        sweep.points("label.audio, balanced", balanced, Node("label", "audio", 0))
        change(begun, cluster={"iterations": open_run(fresh).config.cluster.iterations})
        place = begun / "rounds/000/labels/video"
        elsewhere = place.rename(begun / "elsewhere")
        # So that there is something begun, which `force` gives up, beside something damaged.
        ended(forked(stage_work(begun, label), sweep.log, "kill:1:after rename 000001.parquet"))
        elsewhere.rename(place)
        rotten = bytearray((place / part_name("000000")).read_bytes())
        rotten[len(rotten) // 2] ^= 1
        (place / part_name("000000")).unlink()  # It is a link to another run's.
        (place / part_name("000000")).write_bytes(rotten)
        sweep.points("label.video, forced", begun, label, force=True)


def sweep_grown(sweep: Sweep, state: Path) -> None:
    """An append to the corpus of a finished run; then stages of its kept round, which read a view."""
    from xdc_core.runs.node import SHARD, Node
    from xdc_core.runs.run import open_run

    grown, fewer = copied(state, sweep.out / "grown"), sweep.out / "fewer.csv"
    header, _, *rows = (sweep.out / "videos.csv").read_text(encoding="utf-8").splitlines()
    fewer.write_text("\n".join([header, *rows, ""]), encoding="utf-8")
    change(grown, corpus={"append": True, "videos": str(fewer)})
    kept = copied(sweep.points("shard, appended", grown, SHARD), sweep.out / "kept")
    for node in (Node("extract", "audio", 0), Node("train", "audio", 0)):
        shutil.rmtree(open_run(kept).directory(node))
        kept = copied(sweep.points(f"{node}, kept", kept, node), sweep.out / "kept")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--points", action="store_true", help="every stage at every named point")
    parser.add_argument(
        "--sample",
        type=int,
        help="so many points of each stage, drawn at random, and the one before its commit  [default: all]",
    )
    parser.add_argument("--instants", type=int, default=0, help="so many runs, each killed at random instants")
    parser.add_argument("--xdc-run", type=int, default=0, help="the same with the command xdc run")
    parser.add_argument(
        "--stage",
        help="points of this stage only; cases: replaced, restored and forced ones; clean: of xdc clean; assign: "
        "of xdc assign; grown: of an append, and of a round that keeps its clips",
    )
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    out = given.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    if not (out / "videos.csv").exists():
        write_videos(out / "videos")
    if not (out / "fresh").exists():
        write_small_run(out / "fresh" / "run", out / "videos.csv")
    fresh = out / "fresh" / "run"
    preload()  # Once; every fork has it.
    sweep = Sweep(out, given.sample, given.seed)
    if given.points or given.stage:
        sweep_points(sweep, fresh, given.stage)
    if given.instants or given.xdc_run:
        whole, since = copied(fresh, out / "whole"), time.monotonic()
        if ended(forked(run_work(whole), sweep.log)):
            raise SystemExit(f"the run does not work at all: {tail(sweep.log)}")
        seconds, wanted = time.monotonic() - since, contents(whole)
        sweep.instants("stages in one process, random instants", fresh, given.instants, seconds, wanted)
        sweep.commands(fresh, given.xdc_run, wanted)
    print("\n" + sweep.table())
    return 1 if any(trial.trouble for trial in sweep.trials) else 0


if __name__ == "__main__":
    assert not family(os.getpid()) - {os.getpid()}
    sys.exit(main())
