"""Whether the process of a flow run is alive: judged by machine, start of the machine, process number and its start."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace

import pytest

from flows.server.flow_process import FlowProcess, process_of, this_process
from tests.processes import wait_for


@pytest.fixture
def here() -> FlowProcess:
    """The process of the tests."""
    return this_process(attempt=1)


def test_a_living_process_is_alive_and_one_that_ended_is_gone(here: FlowProcess) -> None:
    assert here.state() == "alive"
    code = (
        "import json, sys; from flows.server.flow_process import this_process;"
        "print(json.dumps(this_process(3).labels()), flush=True); sys.stdin.read()"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdin is not None
    assert child.stdout is not None
    process = process_of(json.loads(child.stdout.readline()))
    assert process is not None
    assert (process.pid, process.attempt) == (child.pid, 3)
    assert process.state() == "alive"
    child.stdin.close()
    # Ended, but not waited for: it is in the list of processes still.
    wait_for("its end", lambda: process.state() == "gone")
    assert child.returncode is None
    child.wait()
    child.stdout.close()
    assert process.state() == "gone"


def test_a_later_process_with_the_same_number_is_another(here: FlowProcess) -> None:
    assert replace(here, started=here.started - 1).state() == "gone"


def test_what_ran_before_the_machine_was_restarted_is_gone(here: FlowProcess) -> None:
    assert replace(here, boot="another", namespace="another").state() == "gone"


@pytest.mark.parametrize("elsewhere", [{"machine": "other//"}, {"namespace": "pid:[1]"}])
def test_of_other_machines_and_containers_nothing_is_concluded(here: FlowProcess, elsewhere: dict[str, str]) -> None:
    assert replace(here, pid=2**22, **elsewhere).state() == "elsewhere"


@pytest.mark.parametrize(
    "spoil",
    [
        lambda labels: labels.clear(),
        lambda labels: labels.pop("xdc.process.boot"),
        lambda labels: labels.update({"xdc.process.pid": "7"}),
        lambda labels: labels.update({"xdc.process.news": 1}),
    ],
)
def test_labels_that_are_not_ours_name_no_process(
    here: FlowProcess, spoil: Callable[[dict[str, object]], object]
) -> None:
    labels = here.labels() | {"prefect.flow.id": "x"}
    assert process_of(labels) == here
    spoil(labels)
    assert process_of(labels) is None
