"""The fingerprints that the nodes of a run should have now."""

from shards.corpus.append import Generation, can_be_appended_to, earlier_generations, generation_of, read_as
from shards.corpus.seen import corpus_fingerprint_now
from shards.store.commit import stale_directory
from shards.store.manifest import Manifest, fingerprint, read_manifest
from xdc_core.graph.stages import inputs, round_nodes, settings_of, stage_of
from xdc_core.runs.corpora import is_corpus, stored_from
from xdc_core.runs.node import SHARD, Node
from xdc_core.runs.run import Run
from xdc_core.stages.init import INIT


class Fingerprints:
    """The fingerprints that the nodes of a run should have now. Use a new object after a stage has run.

    Where a corpus was appended to, work that is finished is kept. An encoder of `init`, and a round that was followed
    by another, are fresh if they are complete and read any generation of the corpus; everything else reads the present
    one. kept: the generation that a node has read, if it is not the present one.
    """

    def __init__(self, run: Run, corpus: str | None = None, compare: bool = True, again: Node | None = None) -> None:
        """`corpus` is the corpus's fingerprint, if it is known; otherwise the sources are listed.

        Without `compare`, sources that do not look as they were last seen are not compared one by one with what is
        known of them, which the stage does, too: the fingerprint is then not known.

        again: a node that is built again although it may be fresh: it, and all of its round, read the present corpus.
        """
        self.run = run
        self._compare = compare
        self._known: dict[Node, str | None] = {SHARD: corpus} if corpus else {}
        self._rounds = 0  # The number of known rounds, from the first on.
        self.reasons: dict[Node, str] = {}
        self._read_outside: dict[tuple[str, str | None], dict[str, str]] = {}
        self._read_as: dict[Node, str] = {}
        self._again = again
        self._generations: list[Generation] | None = None
        self.kept: dict[Node, Generation] = {}

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
                        self.of(earlier)
                self._rounds += 1
            together = self._together(node)
            if together:
                self._know(together)
            else:
                self._known[node] = self._derive(node)
        return self._known[node]

    def _together(self, node: Node) -> list[Node]:
        """Return the nodes that read one generation of the corpus together with this one: those of its round, or an
        encoder of `init` alone. [] if the corpus has one generation, or for a node that reads the present one.
        """
        if (node.round is None and node.stage != INIT.name) or not self._earlier():
            return []
        nodes = [node] if node.round is None else round_nodes(self.run.config, node.round)
        return nodes if node in nodes else []

    def _know(self, nodes: list[Node]) -> None:
        """Derive the fingerprints of nodes that read one generation of the corpus: the present one, or the earlier one
        that all of them were made of, if they are to be kept.
        """
        first = nodes[0]
        earlier = self._earlier()
        if self._again in nodes or (first.round is not None and first.round >= self.run.config.last_round):
            earlier = []
        for generation in [None, *reversed(earlier)]:
            self.kept.update({node: generation for node in nodes if generation})
            for node in nodes:
                self._known[node] = self._derive(node)  # Its inputs among them come before it.
            if not earlier or all(self._is_made(node) for node in nodes):
                return
            for node in nodes:
                self.kept.pop(node, None)
                self._known.pop(node)
        for node in nodes:
            self._known[node] = self._derive(node)

    def _is_made(self, node: Node) -> bool:
        manifest = read_manifest(self.run.directory(node))
        return manifest is not None and manifest.fingerprint == self._known[node]

    def inputs_of(self, node: Node) -> dict[str, str | None]:
        """Return the fingerprints of a node's inputs: of nodes by their name, of files by what they are."""
        kept = self.kept.get(node)
        return {
            str(source): kept.read_as if kept and source == SHARD else self._as_input(source)
            for source in inputs(self.run.config, node)
        } | self.outside(node)

    def _as_input(self, source: Node) -> str | None:
        """Return the fingerprint of a node as an input. For a directory of clips it also depends on the accepted clips:
        rebuilt from the same sources it may have others.
        """
        own = self.of(source)
        if own is None or not is_corpus(source):
            return own
        if source not in self._read_as:
            manifest = self._committed(source, own)
            self._read_as[source] = read_as(manifest) if manifest else own
        return self._read_as[source]

    def _committed(self, source: Node, own: str) -> Manifest | None:
        """Return the manifest of a directory of clips with its present fingerprint; None if it is to be built."""
        directory = self.run.directory(source)
        _, _, settings = stored_from(self.run, source)
        grows = settings.append and can_be_appended_to(read_manifest(directory), settings)
        found = map(read_manifest, [directory] if grows else [directory, stale_directory(directory, own)])
        return next((manifest for manifest in found if manifest and manifest.fingerprint == own), None)

    def _earlier(self) -> list[Generation]:
        """Return the earlier generations of the corpus."""
        if self._generations is None:
            own, config = self.of(SHARD), self.run.config.corpus
            present = self._committed(SHARD, own) if own else None
            self._generations = earlier_generations(present)
            before = read_manifest(self.run.corpus) if present is None and config.append else None
            if before is not None and can_be_appended_to(before, config):  # It is about to grow.
                self._generations = [*earlier_generations(before), generation_of(self.run.corpus, before)]
        return self._generations

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
