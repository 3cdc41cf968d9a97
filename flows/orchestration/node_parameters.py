"""The parameters of the flow of a single stage that name the node: `modality` or `name`, and `round`."""

from xdc_core.graph.stages import STAGES
from xdc_core.runs.node import Node


def node_parameters(stage: str) -> dict[str, type]:
    """Return the parameters that name a node of a stage, with their types."""
    described = STAGES[stage]
    parameters: dict[str, type] = {described.of: str} if described.of else {}
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
