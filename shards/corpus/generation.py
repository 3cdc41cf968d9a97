"""The generations of a corpus that was appended to: each has all shards of the one before, and new ones."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from shards.corpus.index import shard_names
from shards.corpus.plan import STAGE_VERSION
from shards.errors import StageError
from shards.objects.tars import tars_elsewhere
from shards.settings import CorpusSettings, stored_part
from shards.store.build import Record
from shards.store.commit import STALE
from shards.store.fault import fault_point
from shards.store.files import sync
from shards.store.lock import exclusive
from shards.store.manifest import Manifest, fingerprint, missing_files, read_manifest
from shards.store.parquet import read_schema

GENERATIONS = "generations"  # In the summary of a corpus that was appended to: what it was before.
KEPT_FROM = "kept_from"  # In the metadata of plan.parquet: the generation of which shards are kept.
NAMED = 3  # Files that an error names.

# Of a corpus: its fingerprint as an input of other stages, and the sha256 of its tars by name.
Content = tuple[str, dict[str, str]]
Change = Literal["same", "grown", "away", "replaced"]


@dataclass(frozen=True)
class Generation:
    """A state of a corpus that was appended to.

    number: of the appends before it. read_as: its fingerprint as an input of other stages. shards, clips: how many it
    had, without masked clips.
    """

    number: int
    read_as: str
    shards: int
    clips: int


def earlier_generations(manifest: Manifest | None) -> list[Generation]:
    """Return the generations before the present one, oldest first; [] if the corpus was never appended to."""
    entries = manifest.summary.get(GENERATIONS, ()) if manifest else ()
    return [Generation(number, **entry) for number, entry in enumerate(entries)]


def read_as(made: Manifest | Record) -> str:
    """Return the fingerprint of a corpus as an input of other stages: it depends on the accepted clips, too.

    A corpus older than the digest of its keys has its own fingerprint.
    """
    accepted = made.summary.get("accepted")
    return fingerprint([made.fingerprint, accepted]) if accepted else made.fingerprint


def as_read(corpus: Path) -> Content | None:
    """Return what other stages read of a corpus; None if none is there.

    It is the same before and after columns are added to the index of the same clips.
    """
    manifest = read_manifest(corpus)
    if manifest is None:
        return None
    elsewhere = tars_elsewhere(corpus)
    if elsewhere is not None:
        return read_as(manifest), {name: entry["sha256"] for name, entry in elsewhere["tars"].items()}
    return read_as(manifest), {name: entry.sha256 for name, entry in manifest.files.items() if name.endswith(".tar")}


def generation_of(corpus: Path, manifest: Manifest) -> Generation:
    """Return the present generation of a committed corpus."""
    number = len(earlier_generations(manifest))
    return Generation(number, read_as(manifest), len(shard_names(corpus)), manifest.rows)


def since_read(corpus: Path, before: Content | None) -> Change:
    """Return what has become of a corpus since `as_read` returned `before`.

    grown: it is a later generation, which still has all shards. away: none is there, as between the renames of a
    commit, or after a kill between them.
    """
    now = as_read(corpus)
    if now == before:
        return "same"
    if now is None or before is None:
        return "away"
    earlier = {generation.read_as for generation in earlier_generations(read_manifest(corpus))}
    return "grown" if before[0] in earlier else "replaced"


def can_be_appended_to(manifest: Manifest | None, settings: CorpusSettings) -> bool:
    """Return whether a committed corpus has these settings, so that clips may be appended to it."""
    return manifest is not None and (manifest.version, manifest.settings) == (STAGE_VERSION, stored_part(settings))


def set_aside_by_append(corpus: Path, settings: CorpusSettings) -> tuple[Path, Manifest] | None:
    """Return where a corpus is that an append set aside, and was killed before it put the new one in place.

    A partial directory says which generation it has shards of. None if there is a corpus, or no such append.
    """
    if corpus.exists() or not corpus.parent.is_dir():
        return None
    wanted = {_kept_from(partial) for partial in corpus.parent.glob(f".{corpus.name}.*.partial")}
    for aside in sorted((corpus.parent / STALE).glob(f"{corpus.name}-*")):
        manifest = read_manifest(aside)
        if manifest is not None and read_as(manifest) in wanted and can_be_appended_to(manifest, settings):
            return aside, manifest
    return None


def _kept_from(out: Path) -> str:
    """Return which generation a partial directory keeps shards of; "" for none."""
    path = out / "plan.parquet"
    marks = read_schema(path, "shard").metadata if path.exists() else None
    return (marks or {}).get(KEPT_FROM.encode(), b"").decode()


def bring_back(corpus: Path, settings: CorpusSettings) -> Manifest | None:
    """Put a corpus back in its place that a killed append has set aside. Return its manifest; None without a corpus.

    Raises:
        StageError: there are clips, but their manifest cannot be read. Cut again as a whole, they would be in other
            shards, and the generations would be lost.
        Busy: another process is building the corpus.
    """
    if set_aside_by_append(corpus, settings) is not None:
        with exclusive(corpus):
            if (found := set_aside_by_append(corpus, settings)) is not None:
                fault_point("before bring_back")
                os.rename(found[0], corpus)
                fault_point("after bring_back")
                sync(corpus.parent)
    manifest = read_manifest(corpus)
    if manifest is None and any(corpus.glob("[0-9]*.tar")):
        raise StageError(
            f"{corpus}/manifest.json is missing or damaged, and corpus.append keeps shards that exist. Bring it back "
            "from a copy, or cut all again: xdc stage shard RUN --force"
        )
    return manifest


def generation_to_keep(corpus: Path, settings: CorpusSettings, wanted: str) -> Manifest | None:
    """Return the manifest of the corpus to which clips are appended to get the fingerprint `wanted`.

    None if there is none with these settings, or if only one that was never appended to is to be made once more.

    Raises:
        StageError: files of the corpus are missing. Cut again as a whole, it would have other shards.
    """
    manifest = read_manifest(corpus)
    if manifest is None or not can_be_appended_to(manifest, settings):
        return None
    if manifest.fingerprint == wanted and not earlier_generations(manifest):
        return None
    if lost := missing_files(corpus, manifest):
        raise StageError(
            f"{corpus}: {', '.join(lost[:NAMED])} missing or cut off, and corpus.append keeps shards that exist. "
            "Bring the files back from a copy, or cut all again: xdc stage shard RUN --force"
        )
    return manifest
