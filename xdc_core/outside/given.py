"""The files of features that a run is given, and the fingerprint of the corpus that is made of them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from shards.errors import ConfigError
from shards.settings import CorpusSettings, stored_part
from shards.store.files import sha256_of
from shards.store.manifest import fingerprint, read_manifest
from shards.store.parquet import read_parquet
from xdc_core.outside.tables import feature_files

VERSION = 1  # To be raised when the same files give another index.
SOURCES = "sources.parquet"
CHANGED = "the files of features have changed since they were last read"


@dataclass(frozen=True)
class GivenFile:
    """A file of features: its modality, its path, its name relative to the modality's folder, size and time."""

    modality: str
    path: Path
    name: str
    size: int
    mtime_ns: int

    @property
    def state(self) -> tuple[str, int, int]:
        """Return what differs if the file has probably changed."""
        return f"{self.modality}/{self.name}", self.size, self.mtime_ns


def given_files(features: Mapping[str, Path]) -> list[GivenFile]:
    """Return the files of the features of all modalities, in order.

    Raises:
        ConfigError: a modality has none.
    """
    return list(_files(features))


def _files(features: Mapping[str, Path]) -> Iterator[GivenFile]:
    for modality, folder in features.items():
        try:
            for path in feature_files(folder):
                status = path.stat()
                name = path.name if path == folder else path.relative_to(folder).as_posix()
                yield GivenFile(modality, path, name, status.st_size, status.st_mtime_ns)
        except ConfigError as error:
            raise ConfigError(f"corpus.features.{modality}: {error}") from None


def digests(corpus: Path, files: list[GivenFile], compute: bool = True) -> dict[str, str] | None:
    """Return the sha256 of files, by modality/name. Files with the size and time that the corpus notes are not read.

    compute: whether others are read; otherwise return None if there are any.
    """
    known: dict[tuple[str, int, int], str] = {}
    if (corpus / SOURCES).exists() and read_manifest(corpus) is not None:
        table = read_parquet(corpus / SOURCES, "shard", ["path", "size", "mtime_ns", "sha256"])
        known = {(row["path"], row["size"], row["mtime_ns"]): row["sha256"] for row in table.to_pylist()}
    if not compute and any(file.state not in known for file in files):
        return None
    return {file.state[0]: known.get(file.state) or sha256_of(file.path) for file in files}


def given_fingerprint(digest_of: Mapping[str, str], settings: CorpusSettings) -> str:
    """Return the fingerprint of the corpus that is made of files with these digests."""
    return fingerprint(["shard", "features", VERSION, stored_part(settings), dict(digest_of)])


def fingerprint_now(
    corpus: Path, features: Mapping[str, Path], settings: CorpusSettings, compare: bool = True
) -> tuple[str | None, str]:
    """Return the fingerprint that a corpus of these features would get now, or None and why it is not known.

    If a folder is gone, a finished corpus with the same settings counts. Without `compare`, files that have other sizes
    or times than those of which the corpus was made are not read.

    Raises:
        ConfigError: a folder has no Parquet files.
    """
    if gone := [folder for folder in features.values() if not folder.exists()]:
        manifest = read_manifest(corpus)
        if manifest is not None and manifest.settings == stored_part(settings):
            return manifest.fingerprint, ""
        return None, f"{gone[0]} does not exist"
    found = digests(corpus, given_files(features), compare)
    return (None, CHANGED) if found is None else (given_fingerprint(found, settings), "")
