"""Features of new clips: the run that computes them, and what it has made."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.cli.using.nodes import make_nodes
from shards.errors import NoPictures, NoSounds, StageError
from shards.store.build import Record
from xdc_core.graph.rounds import as_stopped
from xdc_core.new_clips.embedding import make_embedding, setup_of
from xdc_core.new_clips.encoders import Encoders, chosen_modalities, encoders_of_run
from xdc_core.new_clips.exported import encoders_of_export, read_exports
from xdc_core.runs.node import SHARD, Node
from xdc_core.runs.run import Run, open_run


@dataclass(frozen=True)
class Embedded:
    """What an embedding made. run: its directory. about: which encoders. records: by modality, and of the corpus."""

    run: Run
    about: str
    sha256: dict[str, str]
    corpus: Record
    features: dict[str, Record]

    def content(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {
            "run": str(self.run.root),
            "encoders": self.sha256,
            "corpus": self.corpus.path,
            "clips": self.corpus.rows,
            "rejects": self.corpus.rejects,
            "reasons": self.corpus.summary.get("reasons", {}),
            "features": {
                name: {
                    "path": record.path,
                    "rows": record.rows,
                    "width": record.summary.get("width"),
                    "rejects": record.rejects,
                    "reused": record.reused,
                }
                for name, record in self.features.items()
            },
        }


def encoders_at(root: Path, number: int | None, modality: str | None) -> Encoders:
    """Return the encoders of a run or of an export: those of a round, and of one modality or with None of all.

    Raises:
        ConfigError, StageError: as `encoders_of_run` and `encoders_of_export`.
    """
    if exported := read_exports(root):
        return encoders_of_export(root, exported, chosen_modalities(root, tuple(exported), modality), number)
    run = as_stopped(open_run(root))
    return encoders_of_run(run, number, chosen_modalities(root, run.config.modalities, modality))


def embed_videos(
    run: Path, videos: Path, out: Path, number: int | None, modality: str | None, layout: str | None
) -> Embedded:
    """Make `out` a run with the features of videos by the encoders of a run or of an export, or continue it.

    Raises:
        ConfigError: as `encoders_at` and `make_embedding`.
        StageError: too many files or clips were rejected; or a stage failed.
        Busy: another process is making the same.
    """
    encoders = encoders_at(run, number, modality)
    return embed_by(encoders, videos, out, layout)


def embed_by(encoders: Encoders, videos: Path, out: Path, layout: str | None) -> Embedded:
    """Make `out` a run with the features of videos by given encoders, or continue it; errors as of `embed_videos`."""
    made = make_embedding(out, encoders, videos, layout)
    try:
        extractions = [Node("extract", name, 0) for name in made.config.modalities]
        records = make_nodes(made, [*setup_of(made.config), *extractions])
    except (NoPictures, NoSounds) as error:
        if len(made.config.corpus.modalities) < 2:
            raise
        lacking, other = ("no pictures", "audio") if isinstance(error, NoPictures) else ("no sound", "video")
        raise StageError(
            f"{error} The encoders are of {' and '.join(made.config.modalities)}, and clips must have both. For media "
            f"with {lacking}, give --modality {other}, and another --out."
        ) from error
    features = {name: records[Node("extract", name, 0)] for name in made.config.modalities}
    return Embedded(made, encoders.about, encoders.sha256, records[SHARD], features)


def print_embedded(embedded: Embedded) -> None:
    """Print where the features lie, how many there are, and what was rejected, by reason."""
    corpus = embedded.corpus
    print(f"{corpus.rows} clips, by {embedded.about}:")
    for name, record in embedded.features.items():
        rejected = f", {record.rejects} clips rejected" if record.rejects else ""
        print(f"  {name}: {record.rows} features, {record.summary.get('width')} wide{rejected}: {record.path}")
    if corpus.rejects:
        print(f"{corpus.rejects} files or clips were rejected; all: {corpus.path}/rejects.parquet")
        for reason, count in corpus.summary.get("reasons", {}).items():
            print(f"  {count} x {reason}")
