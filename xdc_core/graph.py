"""The graph of a run: its nodes, what each reads, which settings it uses, and the fingerprint that follows.

    shard -> extract.video -> cluster.video -> label.video -> train.audio -> report
             extract.audio -> cluster.audio -> label.audio -> train.video      (xdc)

`init` makes the encoders of which the first round extracts; every later round extracts with what the round before
trained. The round after the last training (number `rounds`) is a last look: all but training.
"""

from collections.abc import Iterator
from typing import Any

from shards.commit import fingerprint, partial_directory, read_manifest
from shards.errors import ConfigError
from shards.make import corpus_fingerprint_now
from shards.stage import reusable
from xdc_core.config import Config
from xdc_core.methods import JOINT, METHODS, clustered_from, label_sources, modalities
from xdc_core.run import Node, Run

# Raise a stage's version when the same settings and inputs would give another result.
VERSIONS = {"init": 1, "extract": 1, "cluster": 1, "label": 1, "train": 1, "report": 1}
STAGES = ("shard", *VERSIONS)
SHARD = Node("shard")


def setup_nodes(config: Config) -> list[Node]:
    """What is done once a run."""
    return [SHARD, *(Node("init", modality) for modality in modalities(config.method))]


def round_nodes(config: Config, number: int) -> list[Node]:
    """The nodes of one round, each after all that it reads."""
    names, sources = modalities(config.method), label_sources(config.method)
    nodes = [Node("extract", modality, number) for modality in names]
    nodes += [Node("cluster", source, number) for source in sources]
    nodes += [Node("label", source, number) for source in sources]
    if number < config.rounds:
        nodes += [Node("train", modality, number) for modality in names]
    return [*nodes, Node("report", None, number)]


def all_nodes(config: Config) -> Iterator[Node]:
    """Every node of the run, in an order in which they can be worked off."""
    yield from setup_nodes(config)
    for number in range(config.rounds + 1):
        yield from round_nodes(config, number)


def check_node(run: Run, node: Node) -> None:
    """Raises ConfigError where a run's graph has no such node; says which there are."""
    nodes = list(all_nodes(run.config))
    if node in nodes:
        return
    alike = [str(other) for other in nodes if other.stage == node.stage] or ["none, for rounds is 0"]
    if node.stage not in STAGES:
        raise ConfigError(f"there is no stage {node.stage!r}. There are: {', '.join(STAGES)}.")
    shown = ", ".join(alike[:6]) + (" ..." if len(alike) > 6 else "")
    raise ConfigError(f"{run.root} has no node {node}. There is: {shown}. (Use --modality and --round.)")


def inputs(config: Config, node: Node) -> list[Node]:
    """The nodes whose directories a node reads."""
    number = node.round
    match node.stage:
        case "shard":
            return []
        case "init":
            return [SHARD]
    assert number is not None
    match node.stage:
        case "extract":
            return [SHARD, encoder_node(str(node.modality), number)]
        case "cluster":
            return [
                SHARD,
                *(Node("extract", name, number) for name in clustered_from(config.method, str(node.modality))),
            ]
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
        case "report":
            own = [other for other in round_nodes(config, number) if other != node]
            return [SHARD, *own, *([Node("report", None, number - 1)] if number else [])]
    raise ValueError(f"unknown stage {node.stage!r}")


def _in_round(node: Node, stage: str) -> Node:
    return Node(stage, node.modality, node.round)


def encoder_node(modality: str, number: int) -> Node:
    """The node that made the encoder with which a round begins."""
    return Node("train", modality, number - 1) if number else Node("init", modality)


def view_settings(config: Config, modality: str, training: bool) -> dict[str, Any]:
    """What decides how a clip becomes this modality's tensor, and which encoder takes it.

    The centre view of extraction takes the first short edge, is never flipped and never masked.
    """
    only_training = set() if training else {"mask_frames", "mask_mels"}
    settings: dict[str, Any] = getattr(config, modality).model_dump(mode="json", exclude=only_training)
    if modality != "video":
        # The length of a video view decides which sound goes with it.
        return settings | {"video_frames": config.video.frames}
    return settings if training else settings | {"flip": False, "short_edges": settings["short_edges"][:1]}


def settings_of(config: Config, node: Node) -> dict[str, Any]:
    """The part of the configuration that decides what a node's files hold."""
    seed, name = {"seed": config.seed}, str(node.modality)
    learn = {"learn_splits": config.corpus.learn_splits}
    match node.stage:
        case "init":
            calibration = {"batches": config.extract.calibration_batches, "batch": config.extract.batch}
            return seed | learn | calibration | {"view": view_settings(config, name, training=False)}
        case "extract":
            return {"view": view_settings(config, name, training=False), "precision": config.extract.precision}
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
        case "report":
            return {"method": config.method}
    return {}


class Fingerprints:
    """The fingerprints that the nodes of a run should have now. Looked up once each; forget it after a stage ran."""

    def __init__(self, run: Run, corpus: str | None = None) -> None:
        """`corpus` is the corpus's fingerprint, where it is known; else the sources are listed."""
        self.run = run
        self._known: dict[Node, str | None] = {SHARD: corpus} if corpus else {}
        self.shard_reason = ""

    def of(self, node: Node) -> str | None:
        """The fingerprint, or None where it is not known because the corpus must be made first."""
        if node not in self._known:
            for number in range(node.round or 0):  # Earlier rounds first, or a long run would recurse too deep.
                for earlier in round_nodes(self.run.config, number):
                    if earlier not in self._known:
                        self._known[earlier] = self._derive(earlier)
            self._known[node] = self._shard() if node == SHARD else self._derive(node)
        return self._known[node]

    def inputs_of(self, node: Node) -> dict[str, str | None]:
        """The fingerprints of what a node reads, by the name of the node."""
        return {str(source): self.of(source) for source in inputs(self.run.config, node)}

    def _shard(self) -> str | None:
        found, self.shard_reason = corpus_fingerprint_now(self.run.corpus, self.run.videos, self.run.config.corpus)
        return found

    def _derive(self, node: Node) -> str | None:
        sources = self.inputs_of(node)
        if None in sources.values():
            return None
        own = [node.stage, VERSIONS[node.stage], node.modality, node.round, settings_of(self.run.config, node)]
        return fingerprint([*own, sources])


def node_state(run: Run, node: Node, fingerprints: Fingerprints) -> tuple[str, str]:
    """How a node stands: ("fresh" | "stale" | "partial" | "missing", why).

    fresh: committed with the fingerprint it should have. stale: committed, but its settings or inputs changed since,
    or files are gone. partial: begun, and will be continued. missing: not there.
    """
    directory, wanted = run.directory(node), fingerprints.of(node)
    manifest = read_manifest(directory)
    if wanted is not None and reusable(directory, wanted):
        return "fresh", ""
    if wanted is not None and partial_directory(directory, wanted).exists():
        return "partial", "will be continued" if manifest is None else "a newer one is begun; the old one is stale"
    if manifest is None:
        if node == SHARD and list(directory.parent.glob(f".{directory.name}.*.partial")):
            return "partial", "will be continued"
        return "missing", ""
    if node == SHARD and wanted is None:
        return "stale", fingerprints.shard_reason
    return "stale", explain_stale(run, node, manifest, fingerprints)


def explain_stale(run: Run, node: Node, manifest: Any, fingerprints: Fingerprints) -> str:
    """What changed since a committed directory was made."""
    if manifest.fingerprint == fingerprints.of(node):
        return "files are missing or of another size"
    settings = manifest.settings
    now = run.config.corpus.model_dump(mode="json") if node == SHARD else settings_of(run.config, node)
    reasons = [f"{name}: {old} -> {new}" for name, old, new in _differences(settings, now, node == SHARD)]
    if node != SHARD and not reasons:
        sources = fingerprints.inputs_of(node)
        reasons = [f"{name} changed" for name, value in sources.items() if manifest.inputs.get(name) != value]
    if not reasons and node != SHARD and manifest.version != VERSIONS[node.stage]:
        reasons = [f"stage version {manifest.version} -> {VERSIONS[node.stage]}"]
    return "; ".join(reasons[:3]) or "sources changed"


def _differences(old: dict[str, Any], new: dict[str, Any], only_old: bool) -> Iterator[tuple[str, Any, Any]]:
    for name in sorted(old if only_old else {*old, *new}):
        before, after = old.get(name), new.get(name)
        if isinstance(before, dict) and isinstance(after, dict):
            for inner, was, becomes in _differences(before, after, False):
                yield f"{name}.{inner}", was, becomes
        elif before != after:
            yield name, before, after
