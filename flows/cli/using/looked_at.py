"""The features and clusters of a run's round that a command works on, made where they are missing."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.cli.using.nodes import make_nodes
from shards.errors import ConfigError
from shards.store.manifest import read_manifest
from xdc_core.config.methods import label_sources
from xdc_core.graph.fingerprints import Fingerprints
from xdc_core.graph.rounds import as_stopped, check_round, newest_with_encoders
from xdc_core.graph.run_stage import reuse
from xdc_core.graph.stages import inputs
from xdc_core.runs.node import SHARD, Node
from xdc_core.runs.run import Run, open_run

# What is made without asking. The corpus and trainings are not: whoever wants those runs the run.
MADE = ("init", "extract", "cluster", "label")


@dataclass(frozen=True)
class LookedAt:
    """A run, the number of a round, and the modalities whose features are looked at."""

    run: Run
    round: int
    modalities: tuple[str, ...]

    @property
    def features(self) -> list[Path]:
        """Return the directories of the features, one per modality."""
        return [self.run.directory(Node("extract", name, self.round)) for name in self.modalities]

    @property
    def sources(self) -> list[str]:
        """Return the label sources whose clusters the round has."""
        return list(label_sources(self.run.config.method, self.run.config.modalities))

    def labels(self, source: str) -> Path:
        """Return the directory of the clusters of all clips by a label source."""
        return self.run.directory(Node("label", source, self.round))

    def about(self) -> dict[str, Any]:
        """Return run, round, modalities, and the fingerprints of the features and of the corpus, as JSON values."""
        found = {name: read_manifest(path) for name, path in zip(self.modalities, self.features, strict=True)}
        corpus = read_manifest(self.run.corpus)
        return {
            "run": str(self.run.root.resolve()),
            "round": self.round,
            "modalities": list(self.modalities),
            "features": {name: manifest.fingerprint for name, manifest in found.items() if manifest is not None},
            "corpus": None if corpus is None else corpus.fingerprint,
        }

    def has_labels(self, source: str) -> bool:
        """Return whether these are there and fresh."""
        return source in self.sources and reuse(self.run, Node("label", source, self.round)) is not None

    def make(self, stage: str, names: list[str] | tuple[str, ...]) -> None:
        """Reuse or make the features (stage extract) or clusters (stage label) of these modalities or label sources.

        Raises:
            StageError, ConfigError, Busy: what a stage raises.
        """
        fingerprints, nodes = Fingerprints(self.run), list[Node]()

        def add(node: Node) -> None:
            if node in nodes or reuse(self.run, node, fingerprints) is not None:
                return
            for source in inputs(self.run.config, node):
                if source.stage in MADE and source != SHARD:
                    add(source)
            nodes.append(node)

        for name in names:
            add(Node(stage, name, self.round))
        if nodes:
            make_nodes(self.run, nodes)


def look_at(root: Path, number: int | None, modality: str | None = None) -> LookedAt:
    """Return a round of a run, and see that the features of its modalities, or of one of them, are there.

    number: of the round; None: the newest one whose encoders are there.

    Raises:
        ConfigError: the run has no such round or modality, or no encoders.
        StageError, Busy: what a stage raises.
    """
    run = as_stopped(open_run(root))
    names = tuple(run.config.modalities)
    if modality is not None and modality not in names:
        raise ConfigError(f"{root} has no modality {modality!r}. It has: {', '.join(names)}.")
    names = names if modality is None else (modality,)
    looked_at = LookedAt(run, newest_with_encoders(run, names) if number is None else check_round(run, number), names)
    looked_at.make("extract", names)
    return looked_at
