"""Prefect's server on PostgreSQL and on SQLite: two workers with two runs side by side, and small flows at once.

    PYTHONPATH=.:benchmarks python benchmarks/postgres.py FOLDER [--databases postgres sqlite] [--rounds 2]
        [--processes 1 4 8] [--flows 5] [--turns 1]

Each database gets a new server. First two process workers, one flow run each, do `--rounds` rounds of two runs on one
disk (flow `xdc`). Then P processes at once do `--flows` flow runs of 12 empty tasks each: what a round costs the
server, in less time. Meanwhile the server is asked every 0.1 s for its flow runs. A line has the times of the answers,
what the server's log says of locks, timeouts and errors, and the flow runs that did not complete.

PostgreSQL's programs are those of Debian's package `postgresql`. It listens at no address: the server reaches it
through a socket file.
"""

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from side_by_side import parser, record

from shards.store.files import write_text
from tests.flows.prefect_server import PrefectServer
from xdc_core.config.load import FILE_NAME, load_preset, parse_config
from xdc_core.config.write import commented_yaml
from xdc_core.graph.run_stage import run_stage
from xdc_core.runs.node import SHARD
from xdc_core.runs.run import open_run

# Flow runs, how many of them did not complete, and seconds of each where they were measured.
Load = tuple[int, int, list[float]]
TROUBLE = ("database is locked", "TimeoutError", "QueuePool", "OperationalError", "Retrying", "503")
FLOWS = """
import sys, time
from pathlib import Path
from prefect import flow, task

@task
def nothing(number):
    return number

@flow
def small():
    for future in [nothing.submit(number) for number in range(12)]:
        future.result()

def done():
    try:
        return small(return_state=True).is_completed()
    except Exception as error:  # The server did not answer, whatever was tried.
        print(error, file=sys.stderr)

done()  # Loads what only the first flow run needs.
ready, go = Path(sys.argv[1]), Path(sys.argv[2])
ready.touch()
while not go.exists():
    time.sleep(0.05)
for _ in range(int(sys.argv[3])):
    began = time.perf_counter()
    if done():
        print(time.perf_counter() - began, flush=True)
"""


def main() -> None:
    """Print a line for each database and load."""
    options = parser(__doc__)
    options.add_argument("folder", type=Path)
    options.add_argument("--databases", nargs="+", choices=("postgres", "sqlite"), default=["postgres", "sqlite"])
    options.add_argument("--rounds", type=int, default=2)
    options.add_argument("--processes", type=int, nargs="*", default=[1, 4, 8])
    options.add_argument("--flows", type=int, default=5)
    options.set_defaults(turns=1)
    given = options.parse_args()
    folder = given.folder.resolve()
    rows: list[dict[str, Any]] = []
    print(f"{'database':<10}{'load':<24}{'wall s':>8}{'flow runs':>11}{'failed':>8}{'answer ms: median':>19}", end="")
    print(f"{'95 %':>8}{'longest':>9}  the server's log")
    for turn in range(given.turns):
        for database in given.databases:
            home = folder / f"{database}-{turn}"
            shutil.rmtree(home, ignore_errors=True)
            home.mkdir(parents=True)
            with database_of(database) as settings, server_on(home, settings) as server:
                loads: list[tuple[str, Callable[[], Load]]] = []
                if given.rounds:
                    loads.append(("2 workers, 2 runs", partial(two_runs, server, given.rounds)))
                for count in given.processes:
                    loads.append(
                        (f"{count} x {given.flows} small flows", partial(small_flows, server, count, given.flows))
                    )
                for name, load in loads:
                    rows.append({"database": database, "turn": turn, "load": name} | measured(server, load))
                    print_row(rows[-1])
    record(given.out, rows=rows)


@contextmanager
def database_of(name: str) -> Iterator[dict[str, str]]:
    """Yield the settings of a server with this database; PostgreSQL runs while the block does."""
    if name == "sqlite":
        yield {}
        return
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    programs = os.pathsep.join([os.environ["PATH"], *map(str, found)])
    initdb, postgres = (shutil.which(program, path=programs) for program in ("initdb", "postgres"))
    if not initdb or not postgres:
        raise SystemExit("PostgreSQL is not there: apt-get install postgresql")
    with tempfile.TemporaryDirectory(prefix="xdc-pg-") as folder:
        prefix: list[str] = []
        if os.geteuid() == 0:  # It refuses to run as root.
            shutil.chown(folder, "postgres")
            prefix = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
        data = f"{folder}/data"
        command = [*prefix, initdb, "-D", data, "-U", "prefect", "-A", "trust", "-E", "UTF8"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=folder)
        command = [
            *prefix,
            postgres,
            "-D",
            data,
            "-k",
            folder,
            "-c",
            "listen_addresses=",
            "-c",
            "log_destination=stderr",
        ]
        with open(f"{folder}/log", "wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)
        try:
            while not Path(folder, ".s.PGSQL.5432").exists():
                if process.poll() is not None:
                    raise SystemExit(f"PostgreSQL did not start: {Path(folder, 'log').read_text()}")
                time.sleep(0.1)
            url = f"postgresql+asyncpg://prefect@/postgres?host={folder}"
            yield {"PREFECT_SERVER_DATABASE_CONNECTION_URL": url}
        finally:
            process.terminate()
            process.wait()


@contextmanager
def server_on(home: Path, settings: dict[str, str]) -> Iterator[PrefectServer]:
    """Start a server with a work pool and the deployments."""
    server = PrefectServer(home, **settings)
    try:
        server.start_server()
        for command in (("work-pool", "create", "local", "--type", "process"), ("deploy", "--all")):
            done = server.call(*command)
            if done.returncode:
                raise SystemExit(done.stdout + done.stderr)
        yield server
    finally:
        server.end()


def two_runs(server: PrefectServer, rounds: int) -> Load:
    """Have two workers do all rounds of two new runs on one corpus at once."""
    runs = [new_run(server.home / name, rounds) for name in ("first", "second")]
    workers = [
        server.start("worker", "start", "--pool", "local", "--limit", "1", "--name", name, log=f"{name}.log")
        for name in ("one", "two")
    ]
    flow_runs = [server.submit("xdc/local", run=str(run)) for run in runs]
    ends = {"Completed", "Failed", "Crashed", "Cancelled"}
    beside = False
    while not all((states := [server.state(flow_run) for flow_run in flow_runs])[i] in ends for i in range(2)):
        beside |= states == ["Running", "Running"]
        time.sleep(0.5)
    for worker in workers:
        server.stop(worker)
    logs = [(server.home / f"{name}.log").read_text() for name in ("one", "two")]
    submitted = [log.count("submitted to infrastructure") for log in logs]
    if not beside or submitted != [1, 1]:
        raise SystemExit(f"The runs were not side by side, one per worker: {submitted} flow runs of the workers.")
    below = [flow_run for parent in flow_runs for flow_run in server.rounds_of(parent)]
    everything = [*flow_runs, *below]
    return len(everything), sum(server.state(flow_run) != "Completed" for flow_run in everything), []


def new_run(root: Path, rounds: int) -> Path:
    """Write a run of digits on the corpus that all runs of this benchmark share; the first call cuts it."""
    from shards.digits.corpus import write_digits
    from shards.digits.settings import DigitsSettings

    shared = root.parents[1]
    if not (shared / "media").exists():
        write_digits(shared / "media", DigitsSettings(clips=48, test_clips=0))
    values = parse_config(load_preset("tiny"), "tiny").model_dump()
    values["corpus"] |= {"path": str(shared / "corpus"), "videos": str(shared / "media" / "manifest.csv")}
    values["train"] |= {"clips": 128, "batch": 16}
    values["runs_on"] |= {"device": "cpu", "threads": 1}
    write_text(root / FILE_NAME, commented_yaml(parse_config(values | {"rounds": rounds - 1}, "the benchmark")))
    run_stage(open_run(root), SHARD)
    return root


def small_flows(server: PrefectServer, count: int, flows: int) -> Load:
    """Have `count` processes do `flows` flow runs each, all at the same time."""
    folder = Path(tempfile.mkdtemp(dir=server.home))
    (folder / "flows.py").write_text(FLOWS, encoding="utf-8")
    go, ready = folder / "go", [folder / f"ready-{number}" for number in range(count)]
    processes = [
        subprocess.Popen(
            [sys.executable, folder / "flows.py", file, go, str(flows)],
            env=server.environment | {"PREFECT_LOGGING_LEVEL": "ERROR"},
            stdout=subprocess.PIPE,
            stderr=(folder / f"{file.name}.log").open("wb"),
            text=True,
        )
        for file in ready
    ]
    try:
        while not all(file.exists() for file in ready):
            if any(process.poll() for process in processes):
                raise SystemExit(f"A process of small flows failed before it began; its output is in {folder}.")
            time.sleep(0.1)
        go.touch()
        printed = [process.communicate()[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    seconds = [float(line) for text in printed for line in text.splitlines()]
    return count * flows, count * flows - len(seconds), seconds


def measured(server: PrefectServer, load: Callable[[], Load]) -> dict[str, Any]:
    """Do a load while the server is asked for its flow runs, and read what its log says afterwards."""
    log = server.home / "server.log"
    before, answers, stop = log.stat().st_size, [], threading.Event()

    def ask() -> None:
        while not stop.wait(0.1):
            began = time.perf_counter()
            server.ask("/flow_runs/filter", {"limit": 50})
            answers.append(1e3 * (time.perf_counter() - began))

    asking = threading.Thread(target=ask)
    asking.start()
    began = time.perf_counter()
    try:
        flow_runs, failed, seconds = load()
    finally:
        stop.set()
        asking.join()
    wall = time.perf_counter() - began
    with log.open("rb") as file:
        file.seek(before)
        text = file.read().decode(errors="replace")
    trouble = {word: text.count(word) for word in TROUBLE if word in text}
    answers.sort()
    return {
        "wall_s": wall,
        "flow_runs": flow_runs,
        "failed": failed,
        "flow_s": seconds,
        "answers": len(answers),
        "median_ms": statistics.median(answers),
        "p95_ms": answers[int(0.95 * (len(answers) - 1))],
        "longest_ms": answers[-1],
        "log": trouble,
    }


def print_row(row: dict[str, Any]) -> None:
    """Print a line of the table."""
    log = ", ".join(f"{count} x {word!r}" for word, count in row["log"].items()) or "nothing"
    seconds = row["flow_s"]
    each = f"; a flow run {statistics.median(seconds):.1f} s, the longest {max(seconds):.1f} s" if seconds else ""
    times = f"{row['median_ms']:>19.0f}{row['p95_ms']:>8.0f}{row['longest_ms']:>9.0f}"
    print(f"{row['database']:<10}{row['load']:<24}{row['wall_s']:>8.1f}{row['flow_runs']:>11}", end="")
    print(f"{row['failed']:>8}{times}  {log}{each}", flush=True)


if __name__ == "__main__":
    main()
