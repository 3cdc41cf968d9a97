"""Zombies: flow runs that say Running for ever, because no one was left to say that their process is gone.

A flow signs its run when it starts (`sign`). `look` finds the flow runs that are not at an end and whose process is,
`bury` tells Prefect. A flow run is buried only by the machine that it ran on, or by a person who knows.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal
from uuid import UUID

from flows.orchestration.flow_process import process_of, this_process
from shards.errors import ConfigError

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun, State

FLOWS = ("xdc", "xdc-round", "shard", "init", "extract", "cluster", "label", "train", "report", "data", "embed", "eval")
PAGE = 100
Fate = Literal["alive", "gone", "elsewhere", "starting"]


@dataclass(frozen=True)
class Sighting:
    """A flow run of ours that is not at an end. `state` is the one in which it was seen."""

    id: UUID
    name: str
    state: UUID
    cancelling: bool
    fate: Fate
    text: str


def sign() -> None:
    """Write into the labels of the flow run at work which process does it.

    Raises:
        Whatever talking to a server raises.
    """
    from prefect.client.orchestration import get_client
    from prefect.runtime import flow_run

    with get_client(sync_client=True) as client:
        attempt = client.read_flow_run(UUID(flow_run.id)).run_count
        client.update_flow_run_labels(UUID(flow_run.id), this_process(attempt).labels())


def look(client: "SyncPrefectClient") -> list[Sighting]:
    """The flow runs of xdc that are Pending, Running or Cancelling, whoever does them."""
    return [_sighting(flow_run, flow_run.state) for flow_run in _unfinished(client) if flow_run.state]


def bury(client: "SyncPrefectClient", sighting: Sighting) -> bool:
    """Have Prefect say Crashed (or Cancelled, where that was asked for). False: it has changed since it was seen."""
    from prefect.states import Cancelled, Crashed

    state = client.read_flow_run(sighting.id).state
    if state is None or state.id != sighting.state:
        return False
    end = Cancelled if sighting.cancelling else Crashed
    client.set_flow_run_state(sighting.id, end(message=f"xdc doctor: {sighting.text}."), force=True)
    return True


def known_dead(sightings: list[Sighting], ids: Sequence[str]) -> list[Sighting]:
    """Those that a person has named as dead, by id or by the beginning of one.

    Raises:
        ConfigError: none or several begin like that, or its process is alive here.
    """
    named = []
    for text in ids:
        found = [sighting for sighting in sightings if str(sighting.id).startswith(text)]
        if len(found) != 1:
            raise ConfigError(f"--dead {text}: {len(found)} unfinished flow runs have such an id. See: xdc doctor")
        if found[0].fate == "alive":
            raise ConfigError(f"--dead {text}: {found[0].text}. To end it: prefect flow-run cancel {found[0].id}")
        named.append(found[0])
    return named


def _unfinished(client: "SyncPrefectClient") -> Iterator["FlowRun"]:
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


def _sighting(flow_run: "FlowRun", state: "State") -> Sighting:
    from prefect.client.schemas.objects import StateType

    process = process_of(flow_run.labels)
    fate: Fate
    if process is None or process.attempt != flow_run.run_count or state.type == StateType.PENDING:
        # Between the worker's taking it and its first line of Python, or killed there.
        fate = "starting"
        text = f"{state.name} since {state.timestamp:%Y-%m-%d %H:%M} UTC, and its process has not said where it is"
    else:
        fate = process.fate()
        how = {"alive": "is alive", "gone": "is gone", "elsewhere": "cannot be seen from here"}[fate]
        text = f"{state.name}, and {process} {how}"
    return Sighting(flow_run.id, flow_run.name, state.id, state.type == StateType.CANCELLING, fate, text)
