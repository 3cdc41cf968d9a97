"""What a stage says of ranks and agents that failed, and who may take part in a training at all."""

import json
import os
import platform
import re
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from shards.errors import StageError
from shards.store.executor import InProcess
from shards.store.stage import Task
from shards.version import package_version
from tests.places import ROOT
from tests.xdc_core.agents_here import AgentsHere
from xdc_core.config.schema import RunsOn
from xdc_core.ranks.agent import JOIN
from xdc_core.ranks.agent import main as run_agent
from xdc_core.ranks.channel import Message, connect_channel, open_channel
from xdc_core.ranks.job import FOLDER, JOB, RankJob, read_values, write_job
from xdc_core.ranks.join import join
from xdc_core.ranks.launcher import Agents
from xdc_core.ranks.process import may_pass
from xdc_core.ranks.run import run_ranks
from xdc_core.runs.node import Node

HERE = "127.0.0.1"


@pytest.fixture(autouse=True)
def _in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)  # Ranks import their work from the working directory.


class ComesTwice(AgentsHere):
    """Its only agent comes, and is started again by `join` before the other machine is there."""

    def start_agents(
        self,
        command: Sequence[str],
        machines: int,
        processes: int,
        gpu: bool,
        log: Path,
        waiting: Callable[[str], None],
    ) -> Agents:
        stage = read_values(Path(command[-1]))
        for _ in range(2):
            channel = connect_channel(stage["host"], stage["port"], stage["identity"])
            channel.send(Message("machine", value="4711", host="node2"))
        return super().start_agents(
            [sys.executable, "-c", "import time; time.sleep(60)"], 1, processes, gpu, log, waiting
        )


def task_of(root: Path, executor: InProcess, **runs_on: Any) -> Task[Any]:
    settings = SimpleNamespace(runs_on=RunsOn(rendezvous=HERE, device="cpu", **runs_on))
    node = Node("train", "audio", 0)
    return Task(node, settings, {}, root / "out", root / "train", root, executor=executor)


def failed(task: Task[Any], work: str = "killed") -> str:
    """What the stage says of two ranks that do `work`."""
    log = task.root / "train.log"
    with pytest.raises(StageError) as raised:
        run_ranks(task, f"tests.xdc_core.rank_work:{work}", [str(task.root)], 2, log, lambda value: None)
    return str(raised.value)


def starts(root: Path) -> list[str]:
    return sorted({path.name.split("-rank-")[0] for path in root.glob("start-*-rank-1")})


def job_of(root: Path, port: int, **other: object) -> Path:
    """The file of a job for two machines, of the attempt "one", with other values."""
    job = RankJob("train.audio", "", {}, [], 2, 1, HERE, port, "one", 1, 0, None, package_version())
    path = root / FOLDER / "000-train.audio" / JOB
    path.parent.mkdir(parents=True)
    write_job(path, job)
    path.write_text(json.dumps(asdict(job) | other))
    return path


def test_agents_that_end_before_they_come_are_shown_with_what_they_wrote(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "print('no module named xdc_core'); raise SystemExit(1)"]
    said = failed(task_of(tmp_path, AgentsHere(command), nodes=2))
    log = tmp_path.resolve() / FOLDER / "000-train.audio" / "start.log"
    said_first = f"train.audio of round 0: torchrun ended with exit code 1. The end of {log}:\n"
    line = "no module named xdc_core\n"
    # The second agent may be ended before it has written its line.
    assert said in {said_first + line, said_first + 2 * line}


@pytest.mark.slow
def test_a_killed_rank_is_named_with_its_machine_and_the_output_there(tmp_path: Path) -> None:
    task = task_of(tmp_path, AgentsHere(), nodes=2, restarts=1)
    said = failed(task)
    log = tmp_path.resolve() / FOLDER / "000-train.audio" / f"{platform.node()}.log"
    assert said.startswith(
        f"train.audio of round 0: torchrun ended with exit code 1. Rank 1 on {platform.node()} failed first: SIGKILL "
        f"(it may have needed too much memory). The end of {log}:\n"
    )
    assert starts(tmp_path) == ["start-0", "start-1"]
    assert log.read_text().count("rank 1 reads its clips\n") == 2


@pytest.mark.slow
@pytest.mark.parametrize(("runs_on", "work"), [({}, "disconnected"), ({"nodes": 2}, "defective")])
def test_ranks_are_not_started_again_on_one_machine_or_for_what_would_come_again(
    tmp_path: Path, runs_on: dict[str, Any], work: str
) -> None:
    said = failed(task_of(tmp_path, AgentsHere(), **runs_on), work)
    text = {"disconnected": "RuntimeError: Connection closed by peer", "defective": "KeyError: 'no such head'"}[work]
    assert f"Rank 1 on {platform.node()} failed first: {text}." in said
    assert "raise " in said  # The traceback.
    assert starts(tmp_path) == ["start-0"]


def test_what_may_pass_is_an_exchange_or_the_system_but_neither_memory_of_a_gpu_nor_a_defect() -> None:
    assert may_pass(RuntimeError("Connection closed by peer"))
    assert may_pass(torch.distributed.DistBackendError("NCCL"))
    assert may_pass(ConnectionResetError())
    assert not may_pass(torch.OutOfMemoryError("CUDA out of memory"))
    assert not may_pass(TypeError("an argument is missing"))


def test_a_machine_whose_agent_was_started_again_is_one_machine(tmp_path: Path) -> None:
    said = failed(task_of(tmp_path, ComesTwice(), nodes=2, ranks_timeout=0.2))
    assert said == "train.audio of round 0: 1 of 2 machines came (node2) within 0.2 s (runs_on.ranks_timeout)."


def test_an_agent_of_an_earlier_attempt_ends_without_a_word_to_the_stage(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with open_channel(HERE, 0, "two") as channel:
        path = job_of(tmp_path, channel.port)
        assert run_agent([str(path)]) == 1
        said = f"another training uses {HERE}:{channel.port} now: the stage that wrote the job file is gone."
        assert capfd.readouterr().err == f"{said}\n"
        with pytest.raises(StageError, match=re.escape(said)):
            connect_channel(HERE, channel.port, "one")
        assert list(channel.received()) == []
        assert not channel.stopped()


def test_an_agent_of_another_version_tells_the_stage_so_whatever_the_job_has(tmp_path: Path) -> None:
    with open_channel(HERE, 0, "one") as channel:
        path = job_of(tmp_path, channel.port, version="0.0.1", something="new")
        assert run_agent([str(path)]) == 1
        (message,) = channel.received()
        assert (message.kind, message.value, message.host) == ("error", "StageError", platform.node())
        assert message.text == (
            f"{platform.node()} has version {package_version()} of xdc, and the stage train.audio was started with "
            "0.0.1. Install the same version on all machines."
        )
        assert channel.stopped()


class Looks(threading.Event):
    """An event that is set after three looks."""

    count = 0

    def wait(self, timeout: float | None = None) -> bool:
        self.count += 1
        return self.count > 3


def test_join_starts_no_agent_while_nobody_listens_where_a_job_file_says(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(JOIN, raising=False)
    with socket.create_server((HERE, 0)) as stage:
        port = stage.getsockname()[1]
        job_of(tmp_path, port)
        join(tmp_path, Looks())
        assert capfd.readouterr().out.startswith("train.audio: joining\n")
    join(tmp_path, Looks())
    assert capfd.readouterr().out == ""
    assert JOIN not in os.environ  # It is for the agents only.
