"""The parameters that name the node in the flow of a single stage: `modality` or `name`, and `round`."""

from typing import Any, Literal

from xdc_core.config.methods import JOINT, TRUTH
from xdc_core.graph.stages import STAGES
from xdc_core.modalities.registry import MODALITIES
from xdc_core.runs.node import Node

# Label sources that are no modality, by the stage that has nodes of them.
OTHER_SOURCES = {"cluster": (JOINT,), "label": (JOINT, TRUTH)}


def node_parameters(stage: str) -> dict[str, Any]:
    """Return the parameters that name a node of a stage, with their types: a modality is one of those installed."""
    described = STAGES[stage]
    parameters: dict[str, Any] = {}
    if described.of == "modality":
        parameters["modality"] = Literal[(*MODALITIES, *OTHER_SOURCES.get(stage, ()))]
    elif described.of:
        parameters[described.of] = str
    return parameters | {"round": int} if described.each_round else parameters


def parameters_of(node: Node) -> dict[str, str | int | None]:
    """Return the parameters that name this node."""
    values = {_modality(node.stage): node.modality, "round": node.round}
    return {name: value for name, value in values.items() if name in node_parameters(node.stage)}


def node_of(stage: str, parameters: dict[str, str | int | None]) -> Node:
    """Return the node that these parameters name."""
    modality, number = parameters.get(_modality(stage)), parameters.get("round")
    assert isinstance(modality, str | None)
    assert isinstance(number, int | None)
    return Node(stage, modality, number)


def _modality(stage: str) -> str:
    return STAGES[stage].of or "modality"
