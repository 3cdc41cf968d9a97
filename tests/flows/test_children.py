"""Stages in forked children: their answers, their errors, and their ends."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flows.children import Children, Server, log_path
from shards.errors import ConfigError, StageError
from shards.progress import silent
from xdc_core.run import Node, Run
from xdc_core.stage import reuse, run_stage


def processes_below(parent: int) -> set[int]:
    """The living descendants of a process."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        try:
            fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
        except (OSError, IndexError):
            continue
        if fields[0] != "Z":
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    found, todo = set(), [parent]
    while todo:
        for child in children.get(todo.pop(), []):
            found.add(child)
            todo.append(child)
    return found


def alive(process: int) -> bool:
    """Whether it runs (a zombie does not)."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def gone_within(seconds: float, processes: set[int]) -> bool:
    """Whether all of these end in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not any(alive(process) for process in processes):
            return True
        time.sleep(0.05)
    return False


@pytest.fixture(scope="module")
def children() -> Children:
    """Servers for all tests here: starting one costs seconds."""
    servers = Children()
    yield servers  # type: ignore[misc]
    servers.close()


def test_a_stage_in_a_child_leaves_what_it_leaves_in_this_process(children: Children, make_run) -> None:  # type: ignore[no-untyped-def]
    here, there = make_run(), make_run()
    heard: list[tuple[int, int]] = []
    run_stage(here, Node("init", "audio"))
    children.run_stage(there, Node("init", "audio"), progress=lambda done, total, note="": heard.append((done, total)))
    first, second = (reuse(run, Node("init", "audio")) for run in (here, there))
    assert first is not None
    assert second is not None
    assert first.fingerprint == second.fingerprint
    file = "init/audio/encoder.safetensors"
    assert (here.root / file).read_bytes() == (there.root / file).read_bytes()
    assert heard[-1][0] == heard[-1][1] > 0


def test_an_error_of_the_stage_arrives_with_its_kind_and_text(children: Children, make_run) -> None:  # type: ignore[no-untyped-def]
    run = make_run()
    with pytest.raises(StageError, match=r"extract.video of round 0 needs init.video.*xdc stage init"):
        children.run_stage(run, Node("extract", "video", 0))
    (run.root / "xdc.yaml").write_text("rouns: 1\n")
    with pytest.raises(ConfigError, match="Did you mean 'rounds'"):
        children.run_stage(run, Node("init", "video"))
    assert "Did you mean" in log_path(run, Node("init", "video")).read_text()


def test_a_child_that_is_killed_is_told_of_and_the_server_goes_on(children: Children, make_run) -> None:  # type: ignore[no-untyped-def]
    run = make_run(calibration_batches=3000)
    server = children.server(("xdc_core.initial",))

    def kill_it(done: int, total: int, note: str = "") -> None:
        for process in processes_below(server._process.pid):
            os.kill(process, signal.SIGKILL)

    request = {"run": str(run.root), "stage": "init", "modality": "video", "round": None, "force": False}
    with pytest.raises(StageError, match="ended by signal 9"):
        server.run(request | {"log": str(run.root / "log")}, kill_it)
    server.run(request | {"log": str(run.root / "log")}, silent)
    assert reuse(run, Node("init", "video")) is not None


def test_stopping_in_the_middle_ends_the_child(children: Children, make_run) -> None:  # type: ignore[no-untyped-def]
    run = make_run()
    server = children.server(("xdc_core.initial",))

    def stop(done: int, total: int, note: str = "") -> None:
        raise KeyboardInterrupt

    request = {"run": str(run.root), "stage": "init", "modality": "video", "round": None, "force": False}
    with pytest.raises(KeyboardInterrupt):
        server.run(request | {"log": str(run.root / "log")}, stop)
    assert gone_within(10, processes_below(server._process.pid))


def test_no_child_survives_a_parent_that_is_killed(make_run) -> None:  # type: ignore[no-untyped-def]
    run: Run = make_run(train_clips=10**7)
    for node in ("init.video", "init.audio", "extract.video", "extract.audio", "cluster.video", "label.video"):
        stage, modality = node.split(".")
        run_stage(run, Node(stage, modality, None if stage == "init" else 0))
    code = (
        "import sys; from flows.children import CHILDREN; from xdc_core.run import Node, open_run\n"
        "CHILDREN.run_stage(open_run(sys.argv[1]), Node('train', 'audio', 0), False,"
        " lambda *told: print('going', flush=True))"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, str(run.root)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    assert parent.stdout.readline() == "going\n"
    family = processes_below(parent.pid)
    assert len(family) >= 2
    parent.kill()
    parent.wait()
    assert gone_within(20, family)
    partial = next((run.round_directory(0) / "train").glob(".audio.*.partial"))
    assert list(partial.glob("checkpoint-*.pt")), "told to stop, the training writes a checkpoint"


def test_a_killed_server_takes_its_children_along(make_run) -> None:  # type: ignore[no-untyped-def]
    run = make_run()
    server = Server(("xdc_core.initial",))
    family: set[int] = set()

    def kill_server(done: int, total: int, note: str = "") -> None:
        family.update(processes_below(server._process.pid))
        server._process.kill()

    request = {"run": str(run.root), "stage": "init", "modality": "video", "round": None, "force": False}
    with pytest.raises(StageError, match="the process that starts the stages died"):
        server.run(request | {"log": str(run.root / "log")}, kill_server)
    assert family
    assert gone_within(10, family)
    assert not server.alive

