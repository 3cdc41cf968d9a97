"""Stages in forked children: their answers, their errors, and their ends."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.executors.process_output import written
from flows.runners.forked import TORCH, Children, log_path
from shards.errors import ConfigError, StageError
from shards.progress import silent
from tests.processes import wait_for
from tests.runs import MakeRun
from xdc_core.graph.run_stage import reuse, run_stage
from xdc_core.runs.node import SHARD, Node
from xdc_core.runs.run import Run


def processes_below(parent: int) -> set[int]:
    """The living descendants of a process."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*"):
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
def children() -> Iterator[Children]:
    """Servers for all tests here: starting one costs seconds."""
    servers = Children()
    yield servers
    servers.close()


def test_a_stage_in_a_child_leaves_what_it_leaves_in_this_process(children: Children, make_run: MakeRun) -> None:
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


def test_an_error_of_the_stage_arrives_with_its_kind_and_text(children: Children, make_run: MakeRun) -> None:
    run = make_run()
    with pytest.raises(StageError, match=r"extract.video of round 0 needs init.video.*xdc stage init"):
        children.run_stage(run, Node("extract", "video", 0))
    wrong = make_run(k={"video": 900, "audio": 900, "joint": 900})
    for node in (Node("init", "audio"), Node("extract", "audio", 0)):
        children.run_stage(wrong, node)
    cluster = Node("cluster", "audio", 0)
    with pytest.raises(ConfigError, match=r"cluster\.k\.audio is 900, but there are only"):
        children.run_stage(wrong, cluster)
    assert "cluster.k.audio is 900" in log_path(wrong, cluster).read_text()


def test_a_child_and_torchrun_work_with_the_configuration_they_are_given_whatever_xdc_yaml_says_by_then(
    children: Children, copy_run: MakeRun
) -> None:
    run = copy_run(train_processes=2, train_clips=64)
    (run.root / "xdc.yaml").write_text("rouns: 1\n")
    record = children.run_stage(run, TRAIN)
    assert not record.reused
    assert record.rows == 64
    assert sorted(path.name for path in run.directory(TRAIN).iterdir()) == [
        *("encoder.safetensors", "manifest.json", "metrics.jsonl", "train.log")
    ]


LONG_TRAINING = {"train_clips": 10**7, "checkpoint_every": 5}
TRAIN = Node("train", "audio", 0)


def test_a_child_that_is_killed_is_reported_and_the_server_goes_on(children: Children, copy_run: MakeRun) -> None:
    run = copy_run(**LONG_TRAINING)

    def kill_it(done: int, total: int, note: str = "") -> None:
        for process in processes_below(children.server(TORCH).process_id):
            os.kill(process, signal.SIGKILL)

    with pytest.raises(StageError, match="ended by signal 9"):
        children.run_stage(run, TRAIN, progress=kill_it)
    children.run_stage(run, Node("init", "video"), force=True)
    assert reuse(run, Node("init", "video")) is not None


def test_stopping_in_the_middle_ends_the_child(children: Children, copy_run: MakeRun) -> None:
    run = copy_run(**LONG_TRAINING)

    def stop(done: int, total: int, note: str = "") -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        children.run_stage(run, TRAIN, progress=stop)
    assert gone_within(20, processes_below(children.server(TORCH).process_id))
    assert checkpoints(run), "at SIGTERM the training writes a checkpoint"


def test_no_child_survives_a_parent_that_is_killed(copy_run: MakeRun) -> None:
    run = copy_run(**LONG_TRAINING)
    code = (
        "import sys; from flows.runners.forked import CHILDREN; from xdc_core.runs.run import Node, open_run\n"
        "CHILDREN.run_stage(open_run(sys.argv[1]), Node('train', 'audio', 0), False,"
        " lambda *_: print('going', flush=True))"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, str(run.root)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    assert parent.stdout.readline() == "going\n"
    family = processes_below(parent.pid)
    assert len(family) >= 2
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert gone_within(20, family)
    assert checkpoints(run), "at SIGTERM the training writes a checkpoint"


@pytest.mark.slow
def test_a_killed_server_takes_its_children_along(copy_run: MakeRun) -> None:
    run = copy_run(**LONG_TRAINING)
    children = Children()
    server = children.server(TORCH)
    family: set[int] = set()

    def kill_server(done: int, total: int, note: str = "") -> None:
        family.update(processes_below(server.process_id))
        os.kill(server.process_id, signal.SIGKILL)

    with pytest.raises(StageError, match="the process that starts the stages died"):
        children.run_stage(run, TRAIN, progress=kill_server)
    assert family
    assert gone_within(10, family)
    children.close()


def checkpoints(run: Run) -> list[Path]:
    """Of the unfinished training of sound in round 0."""
    return list((run.round_directory(0) / "train").glob(".audio.*.partial/checkpoint-*.pt"))


def test_a_server_whose_imports_fail_says_which_and_why(make_run: MakeRun, tmp_path: Path) -> None:
    (tmp_path / "broken_package.py").write_text("raise ImportError('libbroken.so.3: no such file')\n")
    run, children = make_run(), Children()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(tmp_path))
        server = children.server(("broken_package",))
        children._servers[TORCH] = server
        with pytest.raises(StageError, match=r"exit code 1.*ImportError: libbroken.so.3: no such file"):
            children.run_stage(run, Node("init", "audio"))
    log = log_path(run, Node("init", "audio")).read_text()
    assert "Traceback" in log
    assert "broken_package.py" in log
    children.close()


def test_a_broken_package_that_is_only_imported_ahead_stops_no_stage(make_run: MakeRun, tmp_path: Path) -> None:
    (tmp_path / "broken_package.py").write_text("raise ValueError('built for another numpy')\n")
    run, children = make_run(), Children()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(tmp_path))
        server = children._servers[TORCH] = children.server(("xdc_core.graph.run_stage", "--later", "broken_package"))
        wait_for("the import", lambda: "built for another numpy" in "".join(server.not_imported), 60)
        assert children.run_stage(run, SHARD).reused
        os.kill(server.process_id, signal.SIGKILL)
        server._process.wait()
        with pytest.raises(
            StageError, match=r"died: it was ended by signal 9 \(by a user, or by the system[^.]*\); see "
        ):
            server.run({"log": str(log_path(run, SHARD))}, silent)
    assert "built for another numpy" in log_path(run, SHARD).read_text()
    children.close()


def test_a_child_that_dies_while_it_starts_is_reported_in_its_log(children: Children, make_run: MakeRun) -> None:
    run = make_run()
    log = log_path(run, TRAIN)
    log.parent.mkdir()
    os.mkfifo(log)  # The child waits in opening it, for a reader.
    family_before = processes_below(children.server(TORCH).process_id)
    errors: list[str] = []

    def ask() -> None:
        with pytest.raises(StageError) as caught:
            children.run_stage(run, TRAIN)
        errors.append(str(caught.value))

    asking = threading.Thread(target=ask)
    asking.start()
    wait_for("the child", lambda: processes_below(children.server(TORCH).process_id) - family_before, 60, every=0.02)
    log.unlink()
    for process in processes_below(children.server(TORCH).process_id) - family_before:
        os.kill(process, signal.SIGKILL)
    asking.join(30)
    assert "the stage's process was ended by signal 9" in errors[0]
    assert "was ended by signal 9" in log.read_text()


def test_a_child_that_cannot_open_its_log_says_why(children: Children, make_run: MakeRun) -> None:
    run = make_run()
    log_path(run, TRAIN).mkdir(parents=True)
    with pytest.raises(StageError, match=r"exit code 1.*IsADirectoryError: .*000-train.audio.log"):
        children.run_stage(run, TRAIN)


def test_what_a_crash_of_a_library_writes_is_in_the_message(make_run: MakeRun, tmp_path: Path) -> None:
    text = "terminate called after throwing an instance of 'c10::Error'"
    (tmp_path / "aborts.py").write_text(
        "import os, sys\nimport xdc_core.graph.run_stage as module\n\ndef abort(*_):\n"
        f"    print({text!r}, file=sys.stderr, flush=True)\n    os.abort()\n\nmodule.run_stage = abort\n"
    )
    run, children = make_run(), Children()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(tmp_path))
        children._servers[TORCH] = children.server(("aborts",))
        with pytest.raises(StageError, match=r"ended by signal 6.*terminate called after throwing.*c10::Error"):
            children.run_stage(run, Node("init", "audio"))
    assert text in log_path(run, Node("init", "audio")).read_text()
    children.close()


def test_of_a_server_that_a_signal_ends_an_error_that_it_wrote_earlier_is_not_given_as_the_cause(
    make_run: MakeRun, tmp_path: Path
) -> None:
    (tmp_path / "complains.py").write_text(
        "import sys\nprint('ValueError: an old complaint\\nand on it went', file=sys.stderr, flush=True)\n"
    )
    run, children = make_run(), Children()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(tmp_path))
        server = children.server(("complains",))
        wait_for("the complaint", lambda: "went" in written(server._stderr.fileno()), 60)
        os.kill(server.process_id, signal.SIGKILL)
        server._process.wait()
        with pytest.raises(StageError, match=r"ended by signal 9 .*Its last output: and on it went; see "):
            server.run({"log": str(log_path(run, SHARD))}, silent)
    children.close()


@pytest.mark.slow
def test_a_server_that_does_not_answer_is_not_said_to_have_died(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    children = Children()
    server = children.server(("json",))

    def still_there(seconds: float | None = None) -> int:
        raise subprocess.TimeoutExpired("the server", seconds or 0)

    with monkeypatch.context() as patch:
        patch.setattr(server._process, "wait", still_there)
        error = server._died(log_path(make_run(), SHARD))
    assert "does not answer any more, and is being stopped; see " in str(error)
    assert "died" not in str(error)
    children.close()
