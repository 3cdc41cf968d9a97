"""The graph of a run: its nodes, what each reads, which settings it uses, and the fingerprint that follows.

    shard -> extract.video -> cluster.video -> label.video -> train.audio -> report
             extract.audio -> cluster.audio -> label.audio -> train.video      (xdc)

`init` makes the encoders of which the first round extracts; every later round extracts with what the round before
trained. The round after the last training (number `rounds`) is a last look: all but training.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from shards.errors import ConfigError
from xdc_core.config.evaluation import CORPUS
from xdc_core.config.methods import JOINT, METHODS, TRUTH, clustered_from, clustered_sources, label_sources, modalities
from xdc_core.config.schema import Config, evaluated_modality
from xdc_core.config.views import _passes, view_settings, with_frames
from xdc_core.runs.node import SHARD, Node, encoder_node
from xdc_core.runs.run import Run

# Raise a stage's version when the same settings and inputs would give another result.
VERSIONS = {
    "init": 2,
    "extract": 2,
    "cluster": 1,
    "label": 2,
    "train": 2,
    "embed": 1,
    "eval": 2,
    "report": 4,
}
STAGES = ("shard", *VERSIONS, "data")


def setup_nodes(config: Config) -> list[Node]:
    """What is done once a run."""
    in_rounds = {evaluation.data for evaluation in config.evaluate.values() if evaluation.when != "asked"}
    data = [Node("data", name) for name in config.datasets if name in in_rounds]
    return [SHARD, *data, *(Node("init", modality) for modality in modalities(config.method))]


def round_nodes(config: Config, number: int) -> list[Node]:
    """The nodes of one round, each after all that it reads."""
    names = modalities(config.method)
    nodes = [Node("extract", modality, number) for modality in names]
    nodes += [Node("cluster", source, number) for source in clustered_sources(config.method)]
    nodes += [Node("label", source, number) for source in label_sources(config.method)]
    if number < config.rounds:
        nodes += [Node("train", modality, number) for modality in names]
    due = ("rounds",) if number < config.rounds else ("rounds", "end")
    wanted = [name for name, evaluation in config.evaluate.items() if evaluation.when in due]
    return [*nodes, *evaluation_nodes(config, wanted, number), Node("report", None, number)]


def evaluation_nodes(config: Config, names: Sequence[str], number: int) -> list[Node]:
    """What evaluations of a round need beside its features, each after all that it reads, and themselves."""
    evaluations = {name: config.evaluate[name] for name in names}
    frozen = {each.data for each in evaluations.values() if each.data != CORPUS and each.protocol != "all"}
    embedded = [Node("embed", name, number) for name in config.datasets if name in frozen]
    return [*embedded, *(Node("eval", name, number) for name in evaluations)]


def all_nodes(config: Config) -> Iterator[Node]:
    """Every node of the run, in an order in which they can be worked off."""
    yield from setup_nodes(config)
    for number in range(config.rounds + 1):
        yield from round_nodes(config, number)


def check_node(run: Run, node: Node) -> None:
    """Raises ConfigError where a run's graph has no such node; says which there are."""
    config = run.config
    nodes = list(all_nodes(config))
    asked = [Node("data", name) for name in config.datasets]
    for number in range(config.rounds + 1):
        asked += evaluation_nodes(config, list(config.evaluate), number)
    if node in nodes or node in asked:
        return
    nodes += asked
    alike = [str(other) for other in nodes if other.stage == node.stage] or ["none, for rounds is 0"]
    if node.stage not in STAGES:
        raise ConfigError(f"there is no stage {node.stage!r}. There are: {', '.join(STAGES)}.")
    shown = ", ".join(alike[:6]) + (" ..." if len(alike) > 6 else "")
    raise ConfigError(f"{run.root} has no node {node}. There is: {shown}. (Use --modality and --round.)")


def inputs(config: Config, node: Node) -> list[Node]:
    """The nodes whose directories a node reads."""
    number = node.round
    match node.stage:
        case "shard" | "data":
            return []
        case "init":
            # Only random encoders are calibrated, on the corpus.
            return [] if getattr(config, str(node.modality)).weights else [SHARD]
    assert number is not None
    match node.stage:
        case "extract":
            return [SHARD, encoder_node(str(node.modality), number)]
        case "cluster":
            return [
                SHARD,
                *(Node("extract", name, number) for name in clustered_from(config.method, str(node.modality))),
            ]
        case "label" if node.modality == TRUTH:
            return [SHARD]
        case "label":
            before = [Node("label", node.modality, number - 1)] if number else []
            return [
                SHARD,
                *inputs(config, Node("cluster", node.modality, number))[1:],
                _in_round(node, "cluster"),
                *before,
            ]
        case "train":
            sources = METHODS[config.method][str(node.modality)]
            labels = [Node("label", source, number) for source in sources]
            # Its own features tell which of the clips with a pseudo-label decode in this modality.
            return [SHARD, encoder_node(str(node.modality), number), _in_round(node, "extract"), *labels]
        case "embed":
            data = config.datasets[str(node.modality)]
            return [Node("data", node.modality), encoder_node(data.modality, number)]
        case "eval":
            return _evaluation_inputs(config, str(node.modality), number)
        case "report":
            own = [other for other in round_nodes(config, number) if other != node]
            # Of the encoders that the round begins with it shows the first layers.
            begun_with = [encoder_node(modality, number) for modality in modalities(config.method)]
            return [SHARD, *begun_with, *own, *([Node("report", None, number - 1)] if number else [])]
    raise ValueError(f"unknown stage {node.stage!r}")


def _evaluation_inputs(config: Config, name: str, number: int) -> list[Node]:
    evaluation, modality = config.evaluate[name], evaluated_modality(config, name)
    corpus = evaluation.data == CORPUS
    data = SHARD if corpus else Node("data", evaluation.data)
    if evaluation.protocol == "all":
        return [data, encoder_node(str(modality), number)]
    if not corpus:
        return [data, Node("embed", evaluation.data, number)]
    return [data, *(Node("extract", each, number) for each in ([modality] if modality else modalities(config.method)))]


def _in_round(node: Node, stage: str) -> Node:
    return Node(stage, node.modality, node.round)


def settings_of(config: Config, node: Node) -> dict[str, Any]:
    """The part of the configuration that decides what a node's files hold."""
    seed, name = {"seed": config.seed}, str(node.modality)
    learn = {"learn_splits": config.corpus.learn_splits}
    match node.stage:
        case "init":
            if getattr(config, name).weights:
                return {"encoder": getattr(config, name).encoder}
            calibration = {"batches": config.extract.calibration_batches, "batch": config.extract.batch}
            return seed | learn | calibration | {"view": view_settings(config, name, training=False)}
        case "extract":
            return {"view": view_settings(config, name, training=False)} | _passes(config)
        case "cluster":
            k = {"k": config.cluster.k.get(name)}  # type: ignore[call-overload]
            return (
                seed
                | learn
                | k
                | config.cluster.model_dump(mode="json", exclude={"k"} if name == JOINT else {"k", "joint_l2"})
            )
        case "train":
            sources = list(METHODS[config.method][name])
            without = {"checkpoint_every", "log_every", "workers"} | (
                {"own_head_weight"} if len(sources) == 1 else set()
            )
            how = config.train.model_dump(mode="json", exclude=without)
            return seed | learn | {"sources": sources} | {"view": view_settings(config, name, training=True)} | how
        case "label" if name == TRUTH:
            return {"column": config.truth}
        case "embed":
            data = config.datasets[name]
            how = {"views": data.views} | _passes(config)
            return how | {"view": view_settings(with_frames(config, data.frames), data.modality, training=False)}
        case "eval":
            return seed | _evaluation_settings(config, name)
        case "report":
            return {"method": config.method} | config.report.model_dump(mode="json", exclude={"track"})
    return {}


def _evaluation_settings(config: Config, name: str) -> dict[str, Any]:
    evaluation = config.evaluate[name]
    own = {"label", "learn", "test"} if evaluation.data != CORPUS else {"splits"}
    tuned = evaluation.protocol == "all"
    settings = evaluation.model_dump(mode="json", exclude={"when", *own, "finetune"})
    if tuned:
        settings["finetune"] = evaluation.finetune.hashed()
        data = config.datasets.get(evaluation.data)
        modality = str(evaluated_modality(config, name))
        seen = with_frames(config, data.frames if data else None)
        settings["view"] = view_settings(seen, modality, training=True)
        settings["views"] = data.views if data else 1
    if evaluation.protocol == "clusters":
        settings["cluster"] = config.cluster.model_dump(mode="json", exclude={"k", "joint_l2"})
    return settings
