"""Real stages with the local executor and two workers: the bytes of one process, whatever is killed."""

import os
import platform
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from pyarrow.parquet import read_table

from flows.runners.forked import TORCH, Children, log_path
from shards.errors import XdcError
from shards.store.executor import Job, Unit
from shards.store.files import part_path
from shards.store.receipt import UNITS
from shards.workers.job_file import write_job
from tests.executors.fake_work import SIZES, job_in
from tests.faults.traces import left_over
from tests.processes import alive, children_of, state_of, wait_for
from tests.runs import MakeRun
from xdc_core.graph.run_stage import reuse, run_stage
from xdc_core.graph.stages import all_nodes
from xdc_core.runs.node import SHARD, Node
from xdc_core.runs.run import Run

RESULTS = (".tar", ".parquet", ".npy", ".safetensors")
WITH_UNITS = ("init", "extract", "cluster", "label")
INIT, EXTRACT = Node("init", "video"), Node("extract", "video", 0)


@pytest.fixture(scope="module")
def children() -> Iterator[Children]:
    """Servers for all tests here: starting one costs seconds."""
    servers = Children()
    yield servers
    servers.close()


@pytest.fixture(scope="module")
def stopping_children() -> Iterator[Children]:
    """The same, but a worker that has stored the shard 000000 stops (SIGSTOP) before it puts the files in place."""
    servers = Children()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDC_FAULT", "stop:1:after receipt 000000")
        servers.server(TORCH)
    yield servers
    servers.close()


def features(run: Run) -> dict[str, bytes]:
    """The bytes of all features, after a look at what else lies there."""
    assert reuse(run, EXTRACT) is not None
    assert left_over(run.root) == []
    assert not (run.directory(EXTRACT) / UNITS).exists()
    return {path.name: path.read_bytes() for path in run.directory(EXTRACT).glob("data/*.parquet")}


@pytest.fixture
def plain(make_run: MakeRun) -> dict[str, bytes]:
    """The features of one process."""
    run = make_run()
    for node in (INIT, EXTRACT):
        run_stage(run, node)
    return features(run)


@pytest.fixture
def two(make_run: MakeRun) -> Run:
    """A run with two workers that is ready for its extraction."""
    run = make_run(executor_settings={"workers": 2})
    run_stage(run, INIT)
    return run


def stopped_workers(server: int) -> dict[int, tuple[int, int]]:
    """The workers that have stopped, with the processes of their stage and of its forker."""
    return {
        worker: (stage, forker)
        for stage in children_of(server)
        for forker in children_of(stage)
        for worker in children_of(forker)
        if state_of(worker) == "T"
    }


def test_two_workers_of_a_stage_give_the_bytes_of_one_process(
    children: Children, two: Run, plain: dict[str, bytes]
) -> None:
    children.run_stage(two, EXTRACT)
    assert features(two) == plain
    logs = {path.name for path in (two.root / "logs" / "units").iterdir()}
    assert logs == {f"extract.video-of-round-0.worker-{slot}.log" for slot in (0, 1)}


def test_without_a_number_of_threads_two_workers_differ_by_rounding_at_most(
    children: Children, make_run: MakeRun
) -> None:
    one, two = make_run(threads=None), make_run(threads=None, executor_settings={"workers": 2})
    for run in (one, two):
        run_stage(run, INIT)
        children.run_stage(run, EXTRACT)
    assert features(one).keys() == features(two).keys()
    for name in features(one):
        tables = [read_table(part_path(run.directory(EXTRACT), Path(name).stem)) for run in (one, two)]
        assert tables[0].column_names == tables[1].column_names
        assert tables[0]["key"] == tables[1]["key"]
        found, wanted = (np.array(table["feature"].to_pylist()) for table in tables)
        assert found.size
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_every_stage_with_units_gives_the_bytes_of_one_process(
    children: Children, make_run: MakeRun, worked_run: Run
) -> None:
    run = make_run(executor_settings={"workers": 2}, corpus={"path": "corpus"})
    done = [SHARD, *(node for node in all_nodes(run.config) if node.round in (None, 0) and node.stage in WITH_UNITS)]
    for node in dict.fromkeys(done):
        children.run_stage(run, node)
        made, wanted = run.directory(node), worked_run.directory(node)
        results = {path.relative_to(wanted) for path in wanted.rglob("*") if path.suffix in RESULTS}
        assert results
        assert {name for name in results if (made / name).read_bytes() != (wanted / name).read_bytes()} == set()
    assert left_over(run.root) == []


def test_an_error_of_a_worker_arrives_with_its_host_and_log(children: Children, two: Run) -> None:
    encoder = two.directory(INIT) / "encoder.safetensors"
    encoder.write_bytes(bytes(encoder.stat().st_size))
    log = two.root / "logs" / "units" / "extract.video-of-round-0.worker-"
    with pytest.raises(XdcError) as raised:
        children.run_stage(two, EXTRACT)
    assert f"(worker on {platform.node()}; its output is in {log}" in str(raised.value)
    assert str(encoder) in str(raised.value)
    assert str(raised.value) in log_path(two, EXTRACT).read_text()


@pytest.mark.parametrize("victim", ["stage", "worker", "forker"])
def test_after_kill_9_in_the_middle_the_bytes_are_those_of_one_process(
    stopping_children: Children, two: Run, plain: dict[str, bytes], victim: str
) -> None:
    children = stopping_children
    ended: list[BaseException] = []

    def extract() -> None:
        try:
            children.run_stage(two, EXTRACT)
        except Exception as error:  # noqa: BLE001 - looked at below
            ended.append(error)

    stage = threading.Thread(target=extract)
    stage.start()
    server = children.server(TORCH).process_id
    wait_for("a stopped worker", lambda: stopped_workers(server))
    ((worker, (process, forker)),) = stopped_workers(server).items()
    family = {process, forker, *children_of(forker)}
    os.kill({"stage": process, "worker": worker, "forker": forker}[victim], signal.SIGKILL)
    stage.join()
    wait_for("all to end", lambda: not any(map(alive, family)), 5)
    if victim == "worker":
        assert ended == []
    else:
        assert len(ended) == 1
        children.run_stage(two, EXTRACT)
    assert features(two) == plain


def test_units_are_done_by_hand_from_the_job_file(tmp_path: Path) -> None:
    out = tmp_path / ".made.0123.partial"
    for folder in ("receipts", "attempts", "errors"):
        (out / UNITS / folder).mkdir(parents=True)
    job: Job = job_in(out)
    path = write_job(job, [Unit(number, (shard,)) for number, shard in enumerate(SIZES)])
    command = [sys.executable, "-m", "xdc_core", "unit", str(path)]
    done = subprocess.run([*command, "1", "3"], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["000001: 2 rows, 0 rejects", "000003: 4 rows, 0 rejects"]
    assert sorted(path.name for path in out.glob("*.txt")) == ["000001.txt", "000003.txt"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert len(done.stdout.splitlines()) == len(SIZES) - 2, "what has a receipt is left out"
    out.rename(tmp_path / "taken")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "is not there: its stage is finished, was continued by another process" in done.stderr
    assert not out.exists()
