"""The fingerprints that the nodes of a run should have now."""

from shards.corpus.seen import corpus_fingerprint_now
from shards.store.commit import stale_directory
from shards.store.manifest import fingerprint, read_manifest
from xdc_core.graph.stages import inputs, round_nodes, settings_of, stage_of
from xdc_core.runs.corpora import is_corpus, stored_from
from xdc_core.runs.node import SHARD, Node
from xdc_core.runs.run import Run


class Fingerprints:
    """The fingerprints that the nodes of a run should have now. Use a new object after a stage has run."""

    def __init__(self, run: Run, corpus: str | None = None, compare: bool = True) -> None:
        """`corpus` is the corpus's fingerprint, if it is known; otherwise the sources are listed.

        Without `compare`, sources that do not look as they were last seen are not compared one by one with what is
        known of them, which the stage does, too: the fingerprint is then not known.
        """
        self.run = run
        self._compare = compare
        self._known: dict[Node, str | None] = {SHARD: corpus} if corpus else {}
        self._rounds = 0  # The number of known rounds, from the first on.
        self.reasons: dict[Node, str] = {}
        self._read_outside: dict[tuple[str, str | None], dict[str, str]] = {}
        self._read_as: dict[Node, str] = {}

    def after_stop(self, run: Run) -> "Fingerprints":
        """Return those of the same run after its stopping rule has ended it; the sources are not listed again.

        `run`: as `as_stopped` returned it; these fingerprints themselves if no rule has ended it.
        """
        return self if run is self.run else Fingerprints(run, self.of(SHARD), self._compare)

    def of(self, node: Node) -> str | None:
        """Return the fingerprint; None if it is not known because the corpus must be built first."""
        if node not in self._known:
            while self._rounds < (
                node.round or 0
            ):  # Earlier rounds first: otherwise a long run would exceed the recursion limit.
                for earlier in round_nodes(self.run.config, self._rounds):
                    if earlier not in self._known:
                        self._known[earlier] = self._derive(earlier)
                self._rounds += 1
            self._known[node] = self._derive(node)
        return self._known[node]

    def inputs_of(self, node: Node) -> dict[str, str | None]:
        """Return the fingerprints of a node's inputs: of nodes by their name, of files by what they are."""
        return {str(source): self._as_input(source) for source in inputs(self.run.config, node)} | self.outside(node)

    def _as_input(self, source: Node) -> str | None:
        """Return the fingerprint of a node as an input. For a directory of clips it also depends on the accepted clips:
        rebuilt from the same sources it may have others. One older than the digest of its keys has its own.
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

    def outside(self, node: Node) -> dict[str, str]:
        """Return digests of what a node reads from outside the run, read once for all rounds."""
        key = node.stage, node.modality
        if key not in self._read_outside:
            self._read_outside[key] = stage_of(node).outside(self.run, node)
        return self._read_outside[key]

    def _stored(self, node: Node) -> str | None:
        found, self.reasons[node] = corpus_fingerprint_now(*stored_from(self.run, node), self._compare)
        return found

    def _derive(self, node: Node) -> str | None:
        if is_corpus(node):
            return self._stored(node)
        sources = self.inputs_of(node)
        if None in sources.values():
            return None
        own = [node.stage, stage_of(node).version, node.modality, node.round, settings_of(self.run.config, node)]
        return fingerprint([*own, sources])
