"""The parameters of the flow of a single stage: those of a node, under the names that people know them by."""

from xdc_core.runs.node import Node

NAMED = ("data", "embed", "eval")  # Their nodes are told apart by the name of a data set or an evaluation.
ONCE = ("shard", "data", "init")  # Done once a run, not once a round.
OF_ALL = ("shard", "report")  # Of all modalities together.


def node_parameters(stage: str) -> dict[str, type]:
    """Return the parameters that name a node of a stage, with their types."""
    parameters: dict[str, type] = {} if stage in OF_ALL else {_modality(stage): str}
    return parameters if stage in ONCE else parameters | {"round": int}


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
    return "name" if stage in NAMED else "modality"
