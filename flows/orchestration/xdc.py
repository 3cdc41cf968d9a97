"""The flow `xdc`: all rounds of a run, one after the other, each a flow run of `xdc-round`."""

import flows.orchestration.prefect_defaults  # noqa: F401  # isort: skip - sets what Prefect reads when it is imported

from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from flows.orchestration.best_effort import only_reported
from flows.orchestration.broken_pipe import outlive_reader
from flows.orchestration.dead_runs import sign
from flows.orchestration.failure import failure_published, run_commands
from flows.orchestration.xdc_round import xdc_round
from xdc_core.graph.run_stage import all_fresh
from xdc_core.graph.stages import round_nodes, setup_nodes
from xdc_core.runs.run import open_run


@flow(name="xdc", flow_run_name="{run}", persist_result=False)
def xdc(run: str = "runs/demo") -> State[Any]:
    """All rounds of a run, and a last look at what the encoders have learnt. Goes on where an earlier call ended.

    Args:
        run: the run's directory, relative to the project's root.

    Rounds in which everything is fresh are passed over. A failed round ends the flow: later ones need it.
    """
    outlive_reader()
    with only_reported("which process this is"):
        sign()
    with failure_published(run, run, lambda: run_commands(run)):
        opened = open_run(run)
        done = 0
        for number in range(opened.config.rounds + 1):
            nodes = [*setup_nodes(opened.config), *round_nodes(opened.config, number)]
            if all_fresh(opened, nodes):
                continue
            state = xdc_round(run, number, return_state=True)
            if not state.is_completed():
                return Failed(message=f"round {number}: {state.message}")  # Its own flow run has published why.
            done += 1
    return Completed(message=f"{done} rounds worked on, {opened.config.rounds + 1 - done} were finished already")
