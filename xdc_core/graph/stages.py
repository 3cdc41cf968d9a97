"""The graph of a run: its nodes, what each reads, which settings it uses, and the fingerprint that follows.

    shard -> extract.video -> cluster.video -> label.video -> train.audio -> report
             extract.audio -> cluster.audio -> label.audio -> train.video      (xdc)

`init` makes the encoders of which the first round extracts; every later round extracts with what the round before
trained. The round after the last training (number `rounds`) is a last look: all but training.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from shards.corpus.plan import STAGE_VERSION as SHARD_VERSION
from shards.corpus.stage import corpus_fingerprint_now
from shards.datasets.originals import NAMES as ORIGINALS
from shards.errors import ConfigError
from shards.settings import CorpusSettings, stored_part
from shards.store.build import reusable
from shards.store.commit import partial_directories, stale_directory
from shards.store.files import sha256_of
from shards.store.manifest import fingerprint, read_manifest
from xdc_core.config.evaluation import CORPUS
from xdc_core.config.methods import JOINT, METHODS, TRUTH, clustered_from, clustered_sources, label_sources, modalities
from xdc_core.config.schema import FILE_NAME, Config
from xdc_core.runs.run import Node, Run

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
SHARD = Node("shard")
WEIGHTS = "weights"


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


def evaluated_modality(config: Config, name: str) -> str | None:
    """Whose encoder an evaluation is of; None for both."""
    evaluation = config.evaluate[name]
    return config.datasets[evaluation.data].modality if evaluation.data != CORPUS else evaluation.modality


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


def encoder_node(modality: str, number: int) -> Node:
    """The node that made the encoder with which a round begins."""
    return Node("train", modality, number - 1) if number else Node("init", modality)


def files_read(run: Run, node: Node) -> dict[str, str]:
    """The sha256 of what a node reads from outside the run, by what it is: the `weights` of an init node, if set.

    Raises:
        ConfigError: the file is missing, or cannot be read.
    """
    path = run.weights(str(node.modality)) if node.stage == "init" else None
    if path is None:
        return {}
    try:
        status = path.stat()
        return {WEIGHTS: _sha256(path, status.st_size, status.st_mtime_ns)}
    except OSError as error:
        raise ConfigError(
            f"{node.modality}.weights: {path} cannot be read ({error.strerror}). Bring the file there, correct the "
            f"path in {run.root}/{FILE_NAME} (it is relative to that file), or set it to null for random weights."
        ) from None


@lru_cache
def _sha256(path: Path, size: int, mtime_ns: int) -> str:
    """Of a file, read once a process as long as size and time stay the same: a flow asks for every node."""
    return sha256_of(path)


def view_settings(config: Config, modality: str, training: bool) -> dict[str, Any]:
    """What decides how a clip becomes this modality's tensor, and which encoder takes it.

    The centre view of extraction takes the first short edge, is never flipped and never masked.
    """
    unseen = {"weights"} if training else {"weights", "mask_frames", "mask_mels"}
    settings: dict[str, Any] = getattr(config, modality).model_dump(mode="json", exclude=unseen)
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


def _passes(config: Config) -> dict[str, Any]:
    """How an encoder makes features. `channels_last` is newer than the first runs: left out where it is not set."""
    how: dict[str, Any] = {"precision": config.extract.precision}
    return how | ({"channels_last": True} if config.extract.channels_last else {})


def with_frames(config: Config, frames: int | None) -> Config:
    """The configuration with views of another number of frames."""
    if frames is None:
        return config
    return config.model_copy(update={"video": config.video.model_copy(update={"frames": frames})})


def _evaluation_settings(config: Config, name: str) -> dict[str, Any]:
    evaluation = config.evaluate[name]
    own = {"label", "learn", "test"} if evaluation.data != CORPUS else {"splits"}
    tuned = evaluation.protocol == "all"
    settings = evaluation.model_dump(mode="json", exclude={"when", *own, *(() if tuned else ("finetune",))})
    if tuned:
        data = config.datasets.get(evaluation.data)
        modality = str(evaluated_modality(config, name))
        seen = with_frames(config, data.frames if data else None)
        settings["view"] = view_settings(seen, modality, training=True)
        settings["views"] = data.views if data else 1
    if evaluation.protocol == "clusters":
        settings["cluster"] = config.cluster.model_dump(mode="json", exclude={"k", "joint_l2"})
    return settings


def is_corpus(node: Node) -> bool:
    """Whether a node's directory is one of clips: the corpus, or a data set to evaluate on."""
    return node.stage in ("shard", "data")


def stored_from(run: Run, node: Node) -> tuple[Path, Path | None, CorpusSettings]:
    """Of a directory of clips: where it is, the files it is made of, and how."""
    if node == SHARD:
        return run.corpus, run.videos, run.config.corpus
    name = str(node.modality)
    return run.directory(node), run.dataset_root(name), run.dataset_settings(name)


def lost_corpus(run: Run, node: Node = SHARD) -> str | None:
    """Why a directory of clips can neither be read nor made: neither it nor its sources are there. Else None."""
    directory, sources, _ = stored_from(run, node)
    if read_manifest(directory) is not None or (sources is not None and sources.exists()):
        return None
    path, files = ("corpus.path", "corpus.videos") if node == SHARD else (str(node), f"datasets.{node.modality}.root")
    found = "holds no finished corpus" if directory.exists() else "is not there"
    cause = f"{files} is not set" if sources is None else f"{files}, {sources}, is not there either"
    return (
        f"{path}: {directory} {found}, and {cause} ({run.root / FILE_NAME}; paths are relative to that file). The run "
        "may have been copied or moved: bring the clips along, or correct corpus.path"
        + (" and corpus.videos." if node == SHARD else f" and {files}.")
    )


class Fingerprints:
    """The fingerprints that the nodes of a run should have now. Looked up once each; forget it after a stage ran."""

    def __init__(self, run: Run, corpus: str | None = None) -> None:
        """`corpus` is the corpus's fingerprint, where it is known; else the sources are listed."""
        self.run = run
        self._known: dict[Node, str | None] = {SHARD: corpus} if corpus else {}
        self._rounds = 0  # So many rounds are known, from the first on.
        self.reasons: dict[Node, str] = {}
        self._splits_of: dict[str, tuple[str, bool]] = {}
        self._read_as: dict[Node, str] = {}

    def of(self, node: Node) -> str | None:
        """The fingerprint, or None where it is not known because the corpus must be made first."""
        if node not in self._known:
            while self._rounds < (node.round or 0):  # Earlier rounds first, or a long run would recurse too deep.
                for earlier in round_nodes(self.run.config, self._rounds):
                    if earlier not in self._known:
                        self._known[earlier] = self._derive(earlier)
                self._rounds += 1
            self._known[node] = self._derive(node)
        return self._known[node]

    def inputs_of(self, node: Node) -> dict[str, str | None]:
        """The fingerprints of what a node reads, by the name of the node or, of a file, by what it is."""
        return (
            {str(source): self._as_input(source) for source in inputs(self.run.config, node)}
            | files_read(self.run, node)
            | self._splits(node)
        )

    def _as_input(self, source: Node) -> str | None:
        """The fingerprint under which a node is read. That of a directory of clips depends on which were accepted, too:
        made anew of the same sources, it may have others. One that is older than the digest of its keys has its own.
        """
        own = self.of(source)
        if own is None or not is_corpus(source):
            return own
        if source not in self._read_as:
            directory = self.run.directory(source)
            found = (read_manifest(place) for place in (directory, stale_directory(directory, own)))
            there = next((manifest for manifest in found if manifest and manifest.fingerprint == own), None)
            accepted = there.summary.get("accepted") if there else None
            self._read_as[source] = fingerprint([own, accepted]) if accepted else own
        return self._read_as[source]

    def _splits(self, node: Node) -> dict[str, str]:
        """What a data set's own files say of its splits enters the evaluations on it.

        So does that recordings of one original are held out together: where file names tell of originals, and the
        evaluation holds something out. `clusters` does so only to divide what has no official test part.
        """
        if node.stage != "eval":
            return {}
        config, evaluation = self.run.config, self.run.config.evaluate[str(node.modality)]
        name, choosing = evaluation.data, evaluation.protocol != "clusters"
        layout = config.corpus.layout if name == CORPUS else config.datasets[name].layout
        together = {"originals": "held out together"} if layout in ORIGINALS else {}
        if name == CORPUS:
            return together
        if name not in self._splits_of:
            from shards.layouts.registry import read_dataset

            splits = read_dataset(config.datasets[name].layout, self.run.dataset_root(name)).splits
            digest = fingerprint([[split.name, dict(split.roles)] for split in splits])
            self._splits_of[name] = digest, any(set(split.roles.values()) == {"train"} for split in splits)
        digest, divided = self._splits_of[name]
        return {"splits": digest} | (together if choosing or divided else {})

    def _stored(self, node: Node) -> str | None:
        found, self.reasons[node] = corpus_fingerprint_now(*stored_from(self.run, node))
        return found

    def _derive(self, node: Node) -> str | None:
        if is_corpus(node):
            return self._stored(node)
        sources = self.inputs_of(node)
        if None in sources.values():
            return None
        own = [node.stage, VERSIONS[node.stage], node.modality, node.round, settings_of(self.run.config, node)]
        return fingerprint([*own, sources])


def node_state(run: Run, node: Node, fingerprints: Fingerprints) -> tuple[str, str]:
    """How a node stands: ("fresh" | "stale" | "partial" | "missing", why).

    fresh: committed with the fingerprint it should have. stale: committed, but its settings or inputs changed since,
    or files are gone. partial: begun, and will be continued. missing: not there (why: only where it cannot be made).
    """
    directory, wanted = run.directory(node), fingerprints.of(node)
    manifest = read_manifest(directory)
    if wanted is not None and reusable(directory, wanted):
        return "fresh", ""
    if wanted is not None and partial_directories(directory, wanted):
        return "partial", "will be continued" if manifest is None else "a newer one is begun; the old one is stale"
    if manifest is None:
        if is_corpus(node) and list(directory.parent.glob(f".{directory.name}.*.partial")):
            return "partial", "will be continued"
        return "missing", (lost_corpus(run, node) or "") if is_corpus(node) else ""
    if is_corpus(node) and wanted is None:
        return "stale", fingerprints.reasons[node]
    return "stale", explain_stale(run, node, manifest, fingerprints)


def explain_stale(run: Run, node: Node, manifest: Any, fingerprints: Fingerprints) -> str:
    """What changed since a committed directory was made."""
    if manifest.fingerprint == fingerprints.of(node):
        return "files are missing or of another size"
    sources = fingerprints.inputs_of(node)
    if (given := WEIGHTS in sources) != (WEIGHTS in manifest.inputs):
        return "random weights -> weights of a file" if given else "weights of a file -> random weights"
    settings = manifest.settings
    now = stored_part(stored_from(run, node)[2]) if is_corpus(node) else settings_of(run.config, node)
    reasons = [f"{name}: {old} -> {new}" for name, old, new in _differences(settings, now)]
    if not is_corpus(node) and not reasons:
        lost = {str(source) for source in inputs(run.config, node) if is_corpus(source) and lost_corpus(run, source)}
        changed = [name for name, value in sources.items() if manifest.inputs.get(name) != value]
        reasons = [f"{name} is not there" if name in lost else f"{name} changed" for name in changed]
    version = SHARD_VERSION if is_corpus(node) else VERSIONS[node.stage]
    if not reasons and manifest.version != version:
        reasons = [f"stage version {manifest.version} -> {version}"]
    return "; ".join(reasons[:3]) or "sources changed"


def _differences(old: dict[str, Any], new: dict[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    for name in sorted({*old, *new}):
        before, after = old.get(name), new.get(name)
        if isinstance(before, dict) and isinstance(after, dict):
            for inner, was, becomes in _differences(before, after):
                yield f"{name}.{inner}", was, becomes
        elif before != after:
            yield name, before, after
