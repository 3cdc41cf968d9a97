"""The graph of a run: the registry of stages, and the nodes that follow from it.

    shard -> extract.video -> cluster.video -> label.video -> train.audio -> report
             extract.audio -> cluster.audio -> label.audio -> train.video      (xdc)

`init` creates the encoders for the first round's extraction; later rounds use the encoders trained in the previous
round. The round after the last training has all stages except training. Its number is `rounds`, or one more with
`last_training: from_first`: then round number `rounds` trains from the encoders of `init`.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from shards.errors import ConfigError
from shards.store.stage import Stage
from xdc_core.config.schema import Config
from xdc_core.runs.node import SHARD, Node
from xdc_core.runs.run import Run
from xdc_core.search.index_stage import SEARCH, index_node, spaces_of
from xdc_core.search.maps_stage import MAPS, maps_node
from xdc_core.stages.clips import DATA_STAGE, SHARD_STAGE
from xdc_core.stages.cluster import CLUSTER
from xdc_core.stages.embed import EMBED, embedded_data_sets
from xdc_core.stages.evaluate import EVALUATE
from xdc_core.stages.extract import EXTRACT
from xdc_core.stages.init import INIT
from xdc_core.stages.label import LABEL
from xdc_core.stages.report import REPORT
from xdc_core.stages.stop import STOP
from xdc_core.stages.teachers import TEACHERS
from xdc_core.stages.train import TRAIN

# By name, each after its inputs.
STAGES: dict[str, Stage[Config, Run, Any]] = {
    stage.name: stage
    for stage in (
        SHARD_STAGE,
        DATA_STAGE,
        INIT,
        EXTRACT,
        CLUSTER,
        LABEL,
        TEACHERS,
        TRAIN,
        EMBED,
        EVALUATE,
        MAPS,
        SEARCH,
        STOP,
        REPORT,
    )
}

AFTER_DECISION = ("teachers", "train", "report")


def stage_of(node: Node) -> Stage[Config, Run, Any]:
    """Return the stage of a node. Raises ConfigError if there is none with this name; the text lists all."""
    if node.stage not in STAGES:
        raise ConfigError(f"there is no stage {node.stage!r}. There are: {', '.join(STAGES)}.")
    return STAGES[node.stage]


def setup_nodes(config: Config) -> list[Node]:
    """Return the nodes that are built once per run."""
    return [node for stage in STAGES.values() for node in stage.nodes(config, None)]


def round_nodes(config: Config, number: int) -> list[Node]:
    """Return the nodes of one round, each after its inputs. Those that a decision to stop changes come after it."""
    nodes = [node for stage in STAGES.values() for node in stage.nodes(config, number)]
    return nodes if config.stop.when == "never" else sorted(nodes, key=lambda node: node.stage in AFTER_DECISION)


def evaluation_nodes(config: Config, names: Sequence[str], number: int) -> list[Node]:
    """Return the nodes of a round's evaluations, and of the data sets that they need, each after its inputs."""
    embedded = [Node("embed", name, number) for name in embedded_data_sets(config, list(names))]
    return [*embedded, *(Node("eval", name, number) for name in names)]


def asked_nodes(config: Config, number: int) -> list[Node]:
    """Return the nodes of a round that are made when a command asks for them, each after its inputs.

    They are those of all evaluations, also of those that are made in every round, and of search.
    """
    searched = [maps_node(number), *(index_node(space, number) for space in spaces_of(config.modalities))]
    return [*evaluation_nodes(config, list(config.evaluate), number), *searched]


def all_nodes(config: Config) -> Iterator[Node]:
    """Yield every node of the run, each after its inputs."""
    yield from setup_nodes(config)
    for number in range(config.last_round + 1):
        yield from round_nodes(config, number)


def check_node(run: Run, node: Node) -> None:
    """Raise ConfigError if a run's graph has no such node; the text lists similar ones."""
    config = run.config
    stage_of(node)
    nodes = list(all_nodes(config))
    asked = [Node("data", name) for name in config.datasets]
    for number in range(config.last_round + 1):
        asked += asked_nodes(config, number)
    if node in nodes or node in asked:
        return
    nodes += asked
    alike = [str(other) for other in nodes if other.stage == node.stage] or ["none, for rounds is 0"]
    shown = ", ".join(alike[:6]) + (" ..." if len(alike) > 6 else "")
    stopped = f" Its rule stopped it in round {config.rounds}." if run.stopped else ""
    raise ConfigError(f"{run.root} has no node {node}. There is: {shown}. (Use --modality and --round.){stopped}")


def inputs(config: Config, node: Node) -> list[Node]:
    """Return the nodes whose directories a node reads."""
    return stage_of(node).inputs(config, node)


def encoders_from_files(config: Config, nodes: Sequence[Node]) -> list[Node]:
    """Return the nodes of encoders that nodes read and that are made from a file of weights, without the corpus."""
    read = [source for node in nodes for source in inputs(config, node)]
    return [node for node in read if node.stage == "init" and SHARD not in inputs(config, node)]


def features_before(config: Config, nodes: Sequence[Node]) -> list[Node]:
    """Return the features that nodes read or are, after the encoders that are made from files.

    The corpus and trainings are not among them.
    """
    read = [source for node in nodes for source in (*inputs(config, node), node)]
    features = [node for node in read if node.stage == "extract"]
    return [*encoders_from_files(config, features), *features]


def settings_of(config: Config, node: Node) -> dict[str, Any]:
    """Return the part of the configuration that decides the contents of a node's files."""
    settings: dict[str, Any] = stage_of(node).settings(config, node).hashed()
    return settings
