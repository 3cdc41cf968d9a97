"""The fingerprints that the nodes of a run should have now."""

from functools import lru_cache
from pathlib import Path

from shards.corpus.stage import corpus_fingerprint_now
from shards.datasets.originals import NAMES as ORIGINALS
from shards.errors import ConfigError
from shards.store.commit import stale_directory
from shards.store.files import sha256_of
from shards.store.manifest import fingerprint, read_manifest
from xdc_core.config.evaluation import CORPUS
from xdc_core.config.load import FILE_NAME
from xdc_core.graph.stages import VERSIONS, inputs, round_nodes, settings_of
from xdc_core.runs.corpora import is_corpus, stored_from
from xdc_core.runs.node import SHARD, Node
from xdc_core.runs.run import Run

WEIGHTS = "weights"


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
