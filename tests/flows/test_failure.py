"""What flow runs publish of their failures, and what a temporary server says of its end. No Prefect server is asked."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from prefect.states import Failed, State

from flows.orchestration import failure, tasks, xdc
from flows.orchestration.tasks import run_nodes
from flows.server import temporary as temporary_server
from tests.runs import MakeRun
from xdc_core.runs.node import Node


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The texts of artifacts that would be published."""
    texts: list[str] = []
    monkeypatch.setattr(failure, "create_markdown_artifact", lambda text, key, about: texts.append(text))
    for flow in (xdc, tasks):
        monkeypatch.setattr(flow, "record_process", lambda: None)
        monkeypatch.setattr(flow, "outlive_reader", lambda: None)
    return texts


def test_an_error_before_the_first_stage_begins_is_published(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch, published: list[str]
) -> None:
    class NoServers:
        def warm_up(self) -> None:
            raise OSError("Too many open files")

    monkeypatch.setattr(tasks, "CHILDREN", NoServers())
    node = Node("init", "video")
    with pytest.raises(OSError, match="Too many open files"):
        run_nodes(make_run(), [node], False, lambda: ["the command"])
    (text,) = published
    assert "OSError: Too many open files" in text
    assert "the command" in text


def test_a_failed_round_is_published_by_its_own_flow_run_alone(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch, published: list[str]
) -> None:
    def failing(*_: object) -> Callable[..., State]:
        return lambda run, number, return_state: Failed(message="train.video failed")

    monkeypatch.setattr(xdc, "round_flow", failing)
    state = xdc.xdc.fn(str(make_run().root))
    assert (state.is_failed(), state.message) == (True, "round 0: train.video failed")
    assert published == []


def test_a_temporary_server_that_died_says_why_also_where_the_work_failed_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    dying = tmp_path / "python"
    dying.write_text("#!/bin/sh\necho 'OSError: no space left' >&2\nexit 3\n")
    dying.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(dying))
    monkeypatch.setattr(temporary_server, "_wait", lambda server, url, said: server.wait())
    with pytest.raises(ConnectionError), temporary_server.temporary_server():
        raise ConnectionError("the server does not answer")
    said = capsys.readouterr().err
    assert said.startswith("Prefect's temporary server ended with exit code 3: OSError: no space left (all output: ")
    Path(said.partition("all output: ")[2].partition(")")[0]).unlink()
