"""A flow per stage, so that each has a deployment: one node looked at, rerun, or scheduled alone."""

import flows.orchestration.prefect_defaults  # noqa: F401  # isort: skip - sets what Prefect reads when it is imported

from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State

from flows.orchestration.failure import failure_published, stage_commands
from flows.orchestration.xdc_round import run_nodes
from xdc_core.graph.stages import check_node
from xdc_core.runs.node import Node
from xdc_core.runs.run import open_run


def do_stage(run: str, node: Node, force: bool) -> State[Any]:
    """Do one node of a run."""

    def again() -> list[str]:
        return stage_commands(run, node, force)

    with failure_published(run, f"{run}, {node}", again):
        opened = open_run(run)
        check_node(opened, node)
    return run_nodes(opened, [node], force, again)


@flow(flow_run_name="{run}", persist_result=False)
def shard(run: str = "runs/demo", force: bool = False) -> State[Any]:
    """Cut the raw videos of a run's corpus into clips."""
    return do_stage(run, Node("shard"), force)


@flow(flow_run_name="{run}, {modality}", persist_result=False)
def init(modality: str, run: str = "runs/demo", force: bool = False) -> State[Any]:
    """Make the encoder with which the first round begins."""
    return do_stage(run, Node("init", modality), force)


@flow(flow_run_name="{run}, {modality}, round {round}", persist_result=False)
def extract(modality: str, round: int, run: str = "runs/demo", force: bool = False) -> State[Any]:
    """Compute one modality's features."""
    return do_stage(run, Node("extract", modality, round), force)


@flow(flow_run_name="{run}, {modality}, round {round}", persist_result=False)
def cluster(modality: str, round: int, run: str = "runs/demo", force: bool = False) -> State[Any]:
    """Find the centroids of one label source (video, audio or joint)."""
    return do_stage(run, Node("cluster", modality, round), force)


@flow(flow_run_name="{run}, {modality}, round {round}", persist_result=False)
def label(modality: str, round: int, run: str = "runs/demo", force: bool = False) -> State[Any]:
    """Give every clip its pseudo-label from one label source (video, audio or joint)."""
    return do_stage(run, Node("label", modality, round), force)


@flow(flow_run_name="{run}, {modality}, round {round}", persist_result=False)
def train(modality: str, round: int, run: str = "runs/demo", force: bool = False) -> State[Any]:
    """Train one modality's encoder on its pseudo-labels."""
    return do_stage(run, Node("train", modality, round), force)


@flow(flow_run_name="{run}, round {round}", persist_result=False)
def report(round: int, run: str = "runs/demo", force: bool = False) -> State[Any]:
    """Write report.json and report.html of a round."""
    return do_stage(run, Node("report", None, round), force)


@flow(flow_run_name="{run}, {name}", persist_result=False)
def data(name: str, run: str = "runs/demo", force: bool = False) -> State[Any]:
    """Cut the recordings of a data set to evaluate on into clips. `name`: one of the run's `datasets`."""
    return do_stage(run, Node("data", name), force)


@flow(flow_run_name="{run}, {name}, round {round}", persist_result=False)
def embed(name: str, round: int, run: str = "runs/demo", force: bool = False) -> State[Any]:
    """Compute features of a data set's recordings with the encoder that a round begins with."""
    return do_stage(run, Node("embed", name, round), force)


@flow(name="eval", flow_run_name="{run}, {name}, round {round}", persist_result=False)
def evaluate(name: str, round: int, run: str = "runs/demo", force: bool = False) -> State[Any]:
    """Do one evaluation of the encoders that a round begins with. `name`: one of the run's `evaluate`."""
    return do_stage(run, Node("eval", name, round), force)
