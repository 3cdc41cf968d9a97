"""A flow per stage, so that each has a deployment: to run, repeat or schedule a single node."""

import flows.server.prefect_defaults  # noqa: F401  # isort: skip - sets what Prefect reads when it is imported

from inspect import Parameter, Signature
from typing import Any

from prefect import Flow, flow
from prefect.client.schemas.objects import State

from flows.orchestration.failure import failure_published, stage_commands
from flows.orchestration.node_parameters import node_of, node_parameters
from flows.orchestration.tasks import run_nodes
from xdc_core.graph.rounds import as_stopped
from xdc_core.graph.stages import STAGES, check_node
from xdc_core.runs.node import Node
from xdc_core.runs.run import open_run

PARAMETERS = {
    "modality": "the modality, or the label source.",
    "name": "the name in xdc.yaml of the data set or evaluation; for search that of the index.",
    "round": "the number of the round; the first is 0.",
    "run": "the run's directory, relative to the worker's folder.",
    "force": "rebuild it even if it is fresh.",
}


def run_stage_flow(run: str, node: Node, force: bool) -> State[Any]:
    """Run one node of a run, as a flow of one task."""

    def again() -> list[str]:
        return stage_commands(run, node, force)

    with failure_published(run, f"{run}, {node}", again):
        opened = as_stopped(open_run(run))
        check_node(opened, node)
    return run_nodes(opened, [node], force, again)


def stage_flow(stage: str) -> Flow[..., State[Any]]:
    """Return the flow of a stage. Its parameters are those that name the node, then `run` and `force`."""
    named = node_parameters(stage)

    def do(run: str, force: bool, **parameters: Any) -> State[Any]:
        return run_stage_flow(run, node_of(stage, parameters), force)

    own = [Parameter(name, Parameter.KEYWORD_ONLY, annotation=kind) for name, kind in named.items()]
    common = [
        Parameter("run", Parameter.KEYWORD_ONLY, annotation=str, default="runs/demo"),
        Parameter("force", Parameter.KEYWORD_ONLY, annotation=bool, default=False),
    ]
    # Prefect reads this for the form of a deployment and to check parameters.
    do.__signature__ = Signature([*own, *common], return_annotation=State)  # type: ignore[attr-defined]
    do.__name__ = do.__qualname__ = stage
    summary = f"{STAGES[stage].summary} A fresh result is reused, unless `force` is set."
    # Prefect shows the descriptions of parameters in the form of a deployment.
    about = "\n".join(f"    {name}: {PARAMETERS[name]}" for name in (*named, "run", "force"))
    do.__doc__ = f"{summary}\n\nArgs:\n{about}"
    title = ", ".join(["{run}", *(f"round {{{name}}}" if name == "round" else f"{{{name}}}" for name in named)])
    return flow(name=stage, description=summary, flow_run_name=title, persist_result=False)(do)


STAGE_FLOWS = {stage: stage_flow(stage) for stage in STAGES}
# An entrypoint of prefect.yaml names a flow as an attribute of this module: `flows.orchestration.stages.train`.
globals().update(STAGE_FLOWS)
