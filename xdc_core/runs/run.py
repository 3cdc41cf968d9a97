"""The paths of a run's directories."""

import re
from dataclasses import dataclass
from pathlib import Path

from shards.command import stage_command
from shards.settings import CorpusSettings, is_url, stored_part
from shards.store.manifest import fingerprint
from xdc_core.config.load import FILE_NAME, load_config
from xdc_core.config.schema import Config
from xdc_core.modalities.registry import MODALITIES
from xdc_core.runs.node import FOLDERS, Node

SHORTEST_S = 0.1


def dataset_settings(config: Config, name: str) -> CorpusSettings:
    """Return the settings of a data set's clips: as in the corpus, but no recording is rejected for being short or
    silent, and none is divided at shot boundaries.
    """
    dataset = config.datasets[name]
    changes = {
        "path": "",  # Its directory lies beside the corpus, on a local disk.
        "layout": dataset.layout,
        "label_from_folder": False,
        "modalities": (MODALITIES[dataset.modality].stored,),
        "cut_at_shots": False,
        "clip_seconds": dataset.clip_seconds,
        "segment_seconds": dataset.segment_seconds,
        "crop": dataset.crop,
        "min_seconds": min(SHORTEST_S, dataset.clip_seconds),
        "silence": "keep",
        "learn_splits": None,
        "append": False,
        "features": {},
    }
    return config.corpus.model_copy(update=changes)


@dataclass(frozen=True)
class Run:
    """A run's directory and its configuration. Paths in the configuration are relative to the directory.

    stopped: whether its stopping rule has ended it; `rounds` is then the round in which it did.
    """

    root: Path
    config: Config
    stopped: bool = False

    @property
    def corpus(self) -> Path:
        """Return the corpus directory; of a corpus in an object store that in the run, with all files but the tars."""
        path = self.config.corpus.path
        if is_url(path):
            name = re.sub(r"[^\w-]+", "-", path.rstrip("/").rpartition("/")[2])
            return (self.root / "corpora" / f"{name}-{fingerprint(path.rstrip('/'))[:8]}").resolve()
        return (self.root / self.config.corpus.path).resolve()

    @property
    def videos(self) -> Path | None:
        """Return the folder or manifest of raw videos, if one is set."""
        return (self.root / self.config.corpus.videos).resolve() if self.config.corpus.videos else None

    @property
    def features(self) -> dict[str, Path]:
        """Return the folders of given features by modality; {} if the run computes its features."""
        given = self.config.corpus.features
        return {name: (self.root / given[name]).resolve() for name in self.config.modalities if name in given}

    def dataset_root(self, name: str) -> Path:
        """Return the folder of a data set to evaluate on."""
        return (self.root / self.config.datasets[name].root).resolve()

    def weights(self, modality: str) -> Path | None:
        """Return the file of weights from which a modality's first encoder starts, if one is set."""
        given: str | None = getattr(self.config, modality).weights
        return (self.root / given).resolve() if given else None

    def round_directory(self, number: int) -> Path:
        """Return the folder of a round's directories."""
        return self.root / "rounds" / f"{number:03d}"

    def directory(self, node: Node) -> Path:
        """Return the directory of a node's committed files."""
        if node.stage == "shard":
            return self.corpus
        if node.stage == "data":
            # Runs with the same clips and settings share them.
            name = str(node.modality)
            kind = fingerprint([stored_part(dataset_settings(self.config, name)), str(self.dataset_root(name))])[:8]
            return self.corpus.parent / f"{node.modality}-{kind}"
        if node.stage == "init":
            return self.root / "init" / str(node.modality)
        assert node.round is not None
        if node.modality is None:
            return self.round_directory(node.round) / FOLDERS[node.stage]
        return self.round_directory(node.round) / FOLDERS[node.stage] / str(node.modality)

    def command(self, node: Node, force: bool = False) -> str:
        """Return the shell command that runs a node."""
        return stage_command(node.stage, self.root, node.modality, node.round, force)


def open_run(root: Path | str) -> Run:
    """Open the run in a directory.

    Raises:
        ConfigError: its xdc.yaml is missing or wrong.
    """
    root = Path(root)
    return Run(root, load_config(root / FILE_NAME))
