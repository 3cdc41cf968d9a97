"""Dead flow runs: Prefect says Running for ever, because their process ended without reporting how.

A flow records its process when it starts (`record_process`). `find_unfinished` lists the flow runs that have no final
state, with the state of their process, and `mark_crashed` gives them one. That is done only on the machine on which the
process ran, or by a person who knows that it is gone.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal
from uuid import UUID

from flows.server.flow_process import process_of, this_process
from shards.errors import ConfigError
from xdc_core.graph.stages import STAGES

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun, State

FLOWS = ("xdc", "xdc-round", *STAGES)
PAGE = 100
ProcessState = Literal["alive", "gone", "elsewhere", "starting"]


@dataclass(frozen=True)
class UnfinishedRun:
    """A flow run of xdc without a final state. `state` is the id of the one that it had when it was read."""

    id: UUID
    name: str
    state: UUID
    cancelling: bool
    process_state: ProcessState
    text: str


def record_process() -> None:
    """Write into the labels of the current flow run which process does it.

    Raises:
        Exception: whatever talking to the server raises.
    """
    from prefect.client.orchestration import get_client
    from prefect.runtime import flow_run

    with get_client(sync_client=True) as client:
        attempt = client.read_flow_run(UUID(flow_run.id)).run_count
        client.update_flow_run_labels(UUID(flow_run.id), this_process(attempt).labels())


def find_unfinished(client: "SyncPrefectClient") -> list[UnfinishedRun]:
    """Return the flow runs of xdc that are Pending, Running or Cancelling, of whichever process."""
    return [_unfinished_run(flow_run, flow_run.state) for flow_run in _read_unfinished(client) if flow_run.state]


def mark_crashed(client: "SyncPrefectClient", run: UnfinishedRun) -> bool:
    """Set a flow run's state to Crashed, or to Cancelled where that was asked for.

    Returns False, and changes nothing, where its state has changed since it was read.
    """
    from prefect.states import Cancelled, Crashed

    state = client.read_flow_run(run.id).state
    if state is None or state.id != run.state:
        return False
    final = Cancelled if run.cancelling else Crashed
    client.set_flow_run_state(run.id, final(message=f"xdc doctor: {run.text}."), force=True)
    return True


def known_dead(runs: list[UnfinishedRun], ids: Sequence[str]) -> list[UnfinishedRun]:
    """Return the flow runs that a person has named as dead, by id or by the beginning of one.

    Raises:
        ConfigError: none or several begin like that, or its process is alive here.
    """
    named = []
    for text in ids:
        matches = [run for run in runs if str(run.id).startswith(text)]
        if len(matches) != 1:
            raise ConfigError(f"--dead {text}: {len(matches)} unfinished flow runs have such an id. See: xdc doctor")
        if matches[0].process_state == "alive":
            raise ConfigError(f"--dead {text}: {matches[0].text}. To end it: prefect flow-run cancel {matches[0].id}")
        named.append(matches[0])
    return named


def _read_unfinished(client: "SyncPrefectClient") -> Iterator["FlowRun"]:
    from prefect.client.schemas.filters import (
        FlowFilter,
        FlowFilterName,
        FlowRunFilter,
        FlowRunFilterState,
        FlowRunFilterStateType,
    )
    from prefect.client.schemas.objects import StateType
    from prefect.client.schemas.sorting import FlowRunSort

    types = [StateType.PENDING, StateType.RUNNING, StateType.CANCELLING]
    ours = FlowFilter(name=FlowFilterName(any_=list(FLOWS)))
    unfinished = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=types)))
    offset = 0
    while True:
        page = client.read_flow_runs(
            flow_filter=ours, flow_run_filter=unfinished, sort=FlowRunSort.START_TIME_ASC, limit=PAGE, offset=offset
        )
        yield from page
        if len(page) < PAGE:
            return
        offset += PAGE


def _unfinished_run(flow_run: "FlowRun", state: "State") -> UnfinishedRun:
    from prefect.client.schemas.objects import StateType

    process = process_of(flow_run.labels)
    process_state: ProcessState
    if process is None or process.attempt != flow_run.run_count or state.type == StateType.PENDING:
        # Its process has not got to its first line of Python, or was killed before it.
        process_state = "starting"
        text = f"{state.name} since {state.timestamp:%Y-%m-%d %H:%M} UTC, and its process has not been recorded"
    else:
        process_state = process.state()
        how = {"alive": "is alive", "gone": "is gone", "elsewhere": "cannot be seen from here"}[process_state]
        text = f"{state.name}, and {process} {how}"
    cancelling = state.type == StateType.CANCELLING
    return UnfinishedRun(flow_run.id, flow_run.name, state.id, cancelling, process_state, text)
