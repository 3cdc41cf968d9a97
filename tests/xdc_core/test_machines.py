"""Training on several machines: agents of their own, which only a shared disk and an address connect."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from shards.errors import ConfigError, StageError
from shards.store.commit import partial_directory
from tests.places import ROOT
from tests.processes import alive, children_of, wait_for
from tests.runs import MakeRun, changed, write_run
from tests.sharing import made_once
from tests.xdc_core.agents_here import AgentsHere
from tests.xdc_core.stage_process import checkpointed_step, start, wait_for_checkpoint
from xdc_core.config.load import parse_config
from xdc_core.documents.metrics import read_metrics
from xdc_core.graph.fingerprints import Fingerprints
from xdc_core.graph.run_stage import run_stage
from xdc_core.runs.node import Node
from xdc_core.runs.run import Run, open_run

AUDIO = Node("train", "audio", 0)
SETTINGS = {"train_clips": 1280, "checkpoint_every": 10, "train_processes": 2}
TWO = {"nodes": 2, "rendezvous": "127.0.0.1"}
linux = pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds the ranks through /proc")


@pytest.fixture(scope="session")
def one_machine(worked_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run whose training had two ranks on one machine. For reading only."""

    def make(directory: Path) -> None:
        root = directory / "run"
        shutil.copytree(worked_run.root, root)
        config = parse_config(changed(worked_run.config.model_dump(), SETTINGS), "the tests' settings")
        run_stage(write_run(root, config), AUDIO)

    return open_run(made_once(tmp_path_factory, "one-machine", make) / "run")


@pytest.fixture
def two_machines(copy_run: MakeRun) -> Run:
    """The same run, not yet trained, with a rank on each of two machines; every stage has the same port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    return copy_run(**SETTINGS, runs_on=TWO | {"rendezvous": f"127.0.0.1:{port}"})


@pytest.fixture
def other_machine(two_machines: Run) -> Iterator["subprocess.Popen[bytes]"]:
    """What stands for the other machine: the command that a person gives there."""
    command = [sys.executable, "-m", "xdc_core.ranks.join", str(two_machines.root)]
    process = subprocess.Popen(command, cwd=ROOT)
    yield process
    process.terminate()
    process.wait(60)


def partial_of(run: Run) -> Path:
    wanted = Fingerprints(run).of(AUDIO)
    assert wanted is not None
    return partial_directory(run.directory(AUDIO), wanted)


def only_child(process: int) -> int:
    (child,) = children_of(process)
    return child


def assert_same(run: Run, other: Run) -> None:
    """Same encoder, same curve."""
    one, two = (which.directory(AUDIO) for which in (run, other))
    assert (one / "encoder.safetensors").read_bytes() == (two / "encoder.safetensors").read_bytes()
    lines = [[line | {"clips_per_s": 0} for line in read_metrics(path / "metrics.jsonl")] for path in (one, two)]
    assert lines[0] == lines[1]


@pytest.mark.slow
@linux
def test_two_machines_of_which_one_died_end_with_the_bytes_of_one(
    one_machine: Run, two_machines: Run, other_machine: "subprocess.Popen[bytes]"
) -> None:
    stage = start(two_machines, AUDIO)
    wait_for_checkpoint(stage, partial_of(two_machines), 0)
    # The agent with its rank. The other agent waits for the new one that `join` starts.
    os.kill(only_child(other_machine.pid), signal.SIGKILL)
    said = stage.communicate(timeout=300)[1]
    assert stage.returncode == 0, said
    assert_same(two_machines, one_machine)
    left = (two_machines.root / "logs" / "ranks" / "000-train.audio").iterdir()
    assert [path.name for path in left] == [f"{os.uname().nodename}.log"]  # The job file is gone.


@pytest.mark.slow
@pytest.mark.matrix
@linux
def test_a_dead_rank_a_stopped_and_a_dead_stage_leave_the_bytes_of_one_machine(
    one_machine: Run, two_machines: Run, other_machine: "subprocess.Popen[bytes]"
) -> None:
    partial = partial_of(two_machines)
    stage = start(two_machines, AUDIO)
    wait_for_checkpoint(stage, partial, 0)

    # A rank: the agents start all ranks again.
    rank = only_child(only_child(other_machine.pid))
    os.kill(rank, signal.SIGKILL)
    wait_for_checkpoint(stage, partial, checkpointed_step(partial))

    # SIGTERM to the stage: the ranks of both machines write one checkpoint.
    stage.send_signal(signal.SIGTERM)
    _, said = stage.communicate(timeout=60)
    kept = checkpointed_step(partial)
    assert said.startswith(f"SIGTERM at step {kept - 1} of 80. The checkpoint of step {kept} is kept.")
    wait_for("the other agent to end", lambda: not children_of(other_machine.pid))

    # The stage: on the other machine nothing goes on.
    stage = start(two_machines, AUDIO)
    wait_for_checkpoint(stage, partial, kept)
    agents = [only_child(stage.pid), only_child(other_machine.pid)]
    ranks = [only_child(agent) for agent in agents]
    stage.kill()
    wait_for("all ranks to end", lambda: not any(alive(process) for process in [*agents, *ranks]), 15)
    assert checkpointed_step(partial) % 10 == 0  # None has written a last checkpoint into an unlocked directory.

    run_stage(two_machines, AUDIO)
    assert_same(two_machines, one_machine)


def test_machines_that_do_not_come_are_named_after_the_timeout(copy_run: MakeRun) -> None:
    run = copy_run(**SETTINGS, runs_on=TWO | {"ranks_timeout": 1.5})
    host, command = os.uname().nodename, f"python -m xdc_core.ranks.join {run.root}"
    with pytest.raises(StageError) as raised:
        run_stage(run, AUDIO)
    assert str(raised.value) in {
        f"train.audio of round 0: {came} within 1.5 s (runs_on.ranks_timeout). On each other machine, run: {command}"
        for came in (f"1 of 2 machines came ({host})", "0 of 2 machines came")  # Importing torch takes longer.
    }


@pytest.mark.slow
def test_an_error_of_any_machine_ends_all_of_them_with_its_words_and_its_log(copy_run: MakeRun) -> None:
    run = copy_run(train_processes=2, lr=1e30, train_clips=640, runs_on=TWO)
    launcher = AgentsHere()
    log = run.root / "logs" / "ranks" / "000-train.audio" / f"{os.uname().nodename}.log"
    with pytest.raises(StageError) as raised:
        run_stage(run, AUDIO, executor=launcher)
    said = r"step \d+: the loss is (nan|inf)\. Lower train\.lr \(now 1e\+30\)\. "
    assert re.fullmatch(said + re.escape(f"({os.uname().nodename}: {log})"), str(raised.value))
    assert launcher.given[1:4] == (2, 1, False)
    assert launcher.poll() == [1, 1]  # Neither was killed.


def test_processes_that_cannot_be_shared_out_among_machines_are_refused(copy_run: MakeRun) -> None:
    with pytest.raises(ConfigError, match=r"train\.processes \(2\) is not a multiple of runs_on\.nodes \(3\)"):
        copy_run(train_processes=2, runs_on={"nodes": 3})
    evaluations = {
        "asked": {"data": "corpus", "modality": "audio", "protocol": "all", "finetune": {"processes": 3, "batch": 12}}
    }
    with pytest.raises(ConfigError, match=r"evaluate\.asked\.finetune\.processes \(3\) is not a multiple of runs_on\."):
        copy_run(train_processes=2, runs_on={"nodes": 2}, evaluate=evaluations)


def test_an_address_that_is_not_this_machine_or_in_use_is_refused(copy_run: MakeRun) -> None:
    unknown = "(Name or service not known|Temporary failure in name resolution)"  # The second without any DNS.
    wrong = {"no-such-machine.invalid": unknown, "192.0.2.1": "Cannot assign requested address"}
    with socket.create_server(("127.0.0.1", 0)) as taken:
        wrong[f"127.0.0.1:{taken.getsockname()[1]}"] = "Address already in use"
        for address, why in wrong.items():
            run = copy_run(train_processes=2, runs_on={"nodes": 2, "rendezvous": address})
            with pytest.raises(ConfigError, match=rf"^this machine cannot wait for others at {address} \(.*{why}\)\."):
                run_stage(run, AUDIO)
