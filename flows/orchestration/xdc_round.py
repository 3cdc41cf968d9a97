"""The flow `xdc-round`: one DeepCluster iteration as one graph of tasks."""

import flows.orchestration.prefect_defaults  # noqa: F401  # isort: skip - sets what Prefect reads when it is imported

from typing import Any
from uuid import UUID

from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.futures import PrefectFuture
from prefect.runtime import flow_run
from prefect.states import Completed, Failed
from prefect.task_runners import ThreadPoolTaskRunner

from flows.orchestration.best_effort import only_reported
from flows.orchestration.broken_pipe import outlive_reader
from flows.orchestration.curves import await_curves
from flows.orchestration.dead_runs import sign
from flows.orchestration.failure import Commands, failure_published, publish_stage_failures, round_commands
from flows.orchestration.tasks import do_node
from flows.runners.forked import CHILDREN
from shards.errors import XdcError
from xdc_core.graph.rounds import check_round, next_round
from xdc_core.graph.run_stage import all_fresh
from xdc_core.graph.stages import inputs, round_nodes, setup_nodes
from xdc_core.runs.node import SHARD, Node
from xdc_core.runs.run import Run, open_run


def _flow_run_name() -> str:
    number = flow_run.parameters.get("round")
    return f"{flow_run.parameters['run']}, {'next round' if number is None else f'round {number}'}"


@flow(
    name="xdc-round",
    flow_run_name=_flow_run_name,
    task_runner=ThreadPoolTaskRunner(max_workers=16),  # type: ignore[arg-type]
    persist_result=False,
)
def xdc_round(run: str = "runs/demo", round: int | None = None) -> State[Any]:
    """One round of a run: extract, cluster, label, train, report, for every modality.

    Args:
        run: the run's directory, relative to the project's root.
        round: its number. None: the first that is not finished, or the last one when all are.

    What is fresh is reused. When a stage fails, those that do not need it still run; the rest waits for the next run.
    """
    with failure_published(run, _flow_run_name(), lambda: round_commands(run, round)):
        opened = open_run(run)
        number = next_round(opened) if round is None else check_round(opened, round)
    if round is None:
        with only_reported("the number of the round"):
            rename_flow_run(f"{run}, round {number}")
    nodes = [*setup_nodes(opened.config), *round_nodes(opened.config, number)]
    return run_nodes(opened, nodes, False, lambda: round_commands(run, number))


def rename_flow_run(name: str) -> None:
    """Give this flow run another name.

    Raises:
        Exception: whatever talking to the server raises.
    """
    with get_client(sync_client=True) as client:
        client.update_flow_run(UUID(flow_run.id), name=name)


def run_nodes(run: Run, nodes: list[Node], force: bool, again: Commands) -> State[Any]:
    """Submit a task a node, each after those that it reads; give the flow's state when all have ended.

    Failures are published with the commands that do the nodes `again`.
    """
    outlive_reader()
    with only_reported("which process this is"):
        sign()
    with failure_published(str(run.root), f"{run.root}, {nodes[-1]}", again):
        if force or not all_fresh(run, nodes):
            CHILDREN.warm_up()
        futures: dict[Node, PrefectFuture[Any]] = {}
        try:
            for node in nodes:
                waits = [futures[source] for source in inputs(run.config, node) if source in futures]
                shard = futures.get(SHARD)
                futures[node] = do_node.submit(
                    run=str(run.root), node=node, force=force, shard=shard, wait_for=waits, return_state=False
                )
            for future in futures.values():
                future.wait()
            await_curves()
        except BaseException:  # A cancel or Ctrl-C: the threads that wait for children end when these do.
            CHILDREN.close()
            raise
    bad = {node: future for node, future in futures.items() if not future.state.is_completed()}
    if bad:
        not_reached = [node for node, future in bad.items() if future.state.name == "NotReady"]
        failed = {node: future.state for node, future in bad.items() if node not in not_reached}
        with only_reported("the failure"):
            whole = again if len(nodes) > 1 else None
            publish_stage_failures(run, {node: _reason(bad[node]) for node in failed}, not_reached, force, whole)
        reasons = [f"{node}: {state.message}" for node, state in failed.items()]
        return Failed(message=" | ".join(reasons) or f"not reached: {', '.join(map(str, bad))}")
    reused = sum(future.state.name == "Cached" for future in futures.values())
    return Completed(message=f"{len(futures)} stages, {reused} of them reused")


def _reason(future: PrefectFuture[Any]) -> str:
    """Why a task did not complete, in the words of the stage where it has said so."""
    error = future.result(raise_on_failure=False)
    return str(error) if isinstance(error, XdcError) else str(future.state.message)
