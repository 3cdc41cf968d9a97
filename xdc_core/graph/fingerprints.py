"""The fingerprints that the nodes of a run should have now."""

from shards.corpus.generation import (
    Generation,
    can_be_appended_to,
    earlier_generations,
    generation_of,
    read_as,
    set_aside_by_append,
)
from shards.corpus.seen import corpus_fingerprint_now
from shards.store.commit import partial_directories, stale_directory
from shards.store.manifest import Manifest, fingerprint, read_manifest
from xdc_core.graph.stages import inputs, round_nodes, settings_of, stage_of
from xdc_core.outside.given import fingerprint_now
from xdc_core.runs.corpora import is_corpus, stored_from
from xdc_core.runs.node import SHARD, Node
from xdc_core.runs.run import Run
from xdc_core.stages.init import INIT
from xdc_core.stages.train import TRAIN


class Fingerprints:
    """The fingerprints that the nodes of a run should have now. Use a new object after a stage has run.

    Where a corpus was appended to, work that is finished is kept. An encoder of `init` that is there, and a round in
    which a training was begun and that is not the last one, belong to the generation of the corpus of which the
    encoder was made. All nodes of the round do, evaluations and the report, too: they are fresh if they were made of
    this generation, and are made of it if they are not. Everything else reads the present one; in a flow run, the one
    with which it began. kept: the generation of a node, if it is not the present one.
    """

    def __init__(self, run: Run, corpus: str | None = None, compare: bool = True) -> None:
        """`corpus` is the corpus's fingerprint as an input of other stages (`read_as`), if it is known; otherwise the
        sources are listed. If clips were appended since it had this fingerprint, what is not finished belongs to that
        generation, too.

        Without `compare`, sources that do not look as they were last seen are not compared one by one with what is
        known of them, which the stage does, too: the fingerprint is then not known.
        """
        self.run = run
        self._compare = compare
        self._known: dict[Node, str | None] = {}
        self._begun: Generation | None = None
        if corpus:
            self._known[SHARD], self._begun = self._begun_with(corpus)
        self._rounds = 0  # The number of known rounds, from the first on.
        self.reasons: dict[Node, str] = {}
        self._read_outside: dict[tuple[str, str | None], dict[str, str]] = {}
        self._read_as: dict[Node, str] = {}
        self._generations: list[Generation] | None = None
        self._decided: dict[Node | int, Generation | None] = {}
        self.kept: dict[Node, Generation] = {}

    def _begun_with(self, corpus: str) -> tuple[str, Generation | None]:
        """Return the present fingerprint of the corpus that had this one as an input, and its generation then, if
        clips were appended since. If another corpus is there, or none, no corpus has the fingerprint.
        """
        manifest = read_manifest(self.run.corpus)
        if manifest is None or read_as(manifest) == corpus:
            return (manifest.fingerprint if manifest else corpus), None
        begun = next((each for each in earlier_generations(manifest) if each.read_as == corpus), None)
        return (manifest.fingerprint if begun else corpus), begun

    def after_stop(self, run: Run) -> "Fingerprints":
        """Return those of the same run after its stopping rule has ended it; the sources are not listed again.

        `run`: as `as_stopped` returned it; these fingerprints themselves if no rule has ended it.
        """
        if run is self.run:
            return self
        after = Fingerprints(run, compare=self._compare)
        if (own := self.of(SHARD)) is not None:
            after._known[SHARD], after._begun = own, self._begun
        return after

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
            group = self._group(node)
            if group is not None and group not in self._decided:
                self._decided[group] = self._decide(group)
            if node not in self._known:
                self._know([node], self._decided[group] if group is not None else None)
        return self._known[node]

    def _group(self, node: Node) -> Node | int | None:
        """Return what has one generation of the corpus together: the number of a node's round, or an encoder of `init`
        alone. None if the corpus has one generation, or for a node that reads the present one.
        """
        if (node.round is None and node.stage != INIT.name) or not self._earlier():
            return None
        return node if node.round is None else node.round

    def _decide(self, group: Node | int) -> Generation | None:
        """Return the generation of which the encoders of a round, or one of `init`, were made: the present one (None),
        or an earlier one. If there are no encoders, or if they have other settings now, it is the present one, or that
        with which a flow run began.
        """
        if isinstance(group, Node):
            nodes = encoders = [group]
        elif group < self.run.config.last_round:
            nodes = round_nodes(self.run.config, group)
            encoders = [node for node in nodes if node.stage == TRAIN.name]
        else:
            return self._begun
        for generation in [None, *reversed(self._earlier())]:
            self._know(nodes, generation)  # Its inputs among them come before each.
            if any(self._is_made(node) for node in encoders):
                return generation
            for node in nodes:
                self.kept.pop(node, None)
                self._known.pop(node)
        return self._begun

    def _know(self, nodes: list[Node], generation: Generation | None) -> None:
        """Derive the fingerprints of nodes that read a generation of the corpus."""
        for node in nodes:
            if generation is not None:
                self.kept[node] = generation
            self._known[node] = self._derive(node)

    def _is_made(self, node: Node) -> bool:
        """Return whether a node is there with its fingerprint, or begun: training has checkpoints to continue from."""
        directory, wanted = self.run.directory(node), self._known[node]
        manifest = read_manifest(directory)
        if wanted is None:
            return False
        return (manifest is not None and manifest.fingerprint == wanted) or bool(partial_directories(directory, wanted))

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
            if present is None and config.append:  # It is about to grow.
                aside = set_aside_by_append(self.run.corpus, config)
                place, before = aside or (self.run.corpus, read_manifest(self.run.corpus))
                if before is not None and can_be_appended_to(before, config):
                    self._generations = [*earlier_generations(before), generation_of(place, before)]
        return self._generations

    def outside(self, node: Node) -> dict[str, str]:
        """Return digests of what a node reads from outside the run, read once for all rounds."""
        key = node.stage, node.modality
        if key not in self._read_outside:
            self._read_outside[key] = stage_of(node).outside(self.run, node)
        return self._read_outside[key]

    def _stored(self, node: Node) -> str | None:
        corpus, videos, settings = stored_from(self.run, node)
        if node == SHARD and self.run.features:
            found, reason = fingerprint_now(corpus, self.run.features, settings, self._compare)
        else:
            found, reason = corpus_fingerprint_now(corpus, videos, settings, self._compare)
        self.reasons[node] = reason
        return found

    def _derive(self, node: Node) -> str | None:
        if is_corpus(node):
            return self._stored(node)
        sources = self.inputs_of(node)
        if None in sources.values():
            return None
        own = [node.stage, stage_of(node).version, node.modality, node.round, settings_of(self.run.config, node)]
        return fingerprint([*own, sources])
