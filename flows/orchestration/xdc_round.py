"""The flow `xdc-round`: one DeepCluster iteration as one graph of tasks."""

import flows.server.prefect_defaults  # noqa: F401  # isort: skip - sets what Prefect reads when it is imported

import sys
from collections.abc import Callable
from typing import Any
from uuid import UUID

from prefect import Flow, flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.task_runners import ThreadPoolTaskRunner

from flows.orchestration.best_effort import only_reported
from flows.orchestration.failure import failure_published, round_commands
from flows.orchestration.tasks import Futures, run_nodes
from xdc_core.cleaning.retain import retain
from xdc_core.graph.rounds import as_stopped, check_round, next_round
from xdc_core.graph.stages import round_nodes, setup_nodes
from xdc_core.runs.run import Run, open_run


def _flow_run_name() -> str:
    number = flow_run.parameters.get("round")
    return f"{flow_run.parameters['run']}, {'next round' if number is None else f'round {number}'}"


_as_flow = flow(
    name="xdc-round",
    description="Run one round of a run: extract, cluster, label and train for every modality, and report.",
    flow_run_name=_flow_run_name,
    task_runner=ThreadPoolTaskRunner(max_workers=16),  # type: ignore[arg-type]
    persist_result=False,
)


@_as_flow
def xdc_round(run: str = "runs/demo", round: int | None = None) -> State[Any]:
    """Run one round of a run: extract, cluster, label and train for every modality, and report.

    Args:
        run: the run's directory, relative to the folder of the process: for a deployment, that of the worker.
        round: its number. None: the first that is not finished, or the last one if all are.

    A run that its stopping rule has ended has no rounds after that; the message of the state then says how to go on.
    Fresh results are reused. If a stage fails, those that do not need it still run; the others wait for the next run.
    The configuration is read when the flow run begins; a later change of xdc.yaml affects the next flow run.
    """
    with failure_published(run, _flow_run_name(), lambda: round_commands(run, round)):
        opened = as_stopped(open_run(run))
        number = next_round(opened) if round is None else check_round(opened, round)
    if round is None:
        with only_reported("the number of the round"):
            rename_flow_run(f"{run}, round {number}")
    nodes = [*setup_nodes(opened.config), *round_nodes(opened.config, number)]
    return _retained(opened, run_nodes(opened, nodes, False, lambda: round_commands(run, number)))


def round_flow(opened: Run, earlier: Futures, submitted: Callable[[Futures], None]) -> Flow[[str, int], State[Any]]:
    """Return `xdc-round` for the flow of all rounds, with the configuration that it has read.

    `earlier` and `submitted`: see `run_nodes`.
    """

    def xdc_round(run: str, round: int) -> State[Any]:
        nodes = [*setup_nodes(opened.config), *round_nodes(opened.config, round)]
        return _retained(
            opened, run_nodes(opened, nodes, False, lambda: round_commands(run, round), earlier, submitted)
        )

    return _as_flow(xdc_round)


def _retained(run: Run, state: State[Any]) -> State[Any]:
    """Remove what the section `retain` says, if the round is finished. Return the round's state unchanged."""
    if state.is_completed() and (line := retain(run)):
        print(line, file=sys.stderr, flush=True)
    return state


def rename_flow_run(name: str) -> None:
    """Rename this flow run.

    Raises:
        Exception: any error of the communication with the server.
    """
    with get_client(sync_client=True) as client:
        client.update_flow_run(UUID(flow_run.id), name=name)
