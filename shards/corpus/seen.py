"""The fingerprint that a corpus should have now, from what its sources look like: no video is read.

Beside a corpus a small file has its fingerprint and a digest of its sources as they were when the corpus was made or
compared last: of every path, size and time, and of the rows of a manifest. While the digest is the same, nothing else
is read. It is computed from one source after the other: none are held.
"""

import contextlib
import hashlib
import inspect
import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict

from shards.corpus.known import (
    PACKED,
    is_unreadable,
    known_sources,
    look_up,
    modalities_of,
    pack_known,
    path_key,
    survey_notes,
)
from shards.corpus.listing import check_sources, list_corpus, open_sources
from shards.corpus.plan import STAGE_VERSION, hash_sources
from shards.corpus.survey import read_survey
from shards.layouts.registry import LAYOUTS
from shards.settings import CorpusSettings, stored_part
from shards.sources.fetched import state_of, states_of
from shards.sources.manifest import SourceRow, stream_rows
from shards.sources.source import Source, source_or_reject
from shards.sources.table import TABLE_SUFFIXES, stream_table
from shards.sources.walk import walk
from shards.store.commit import STALE
from shards.store.files import write_text
from shards.store.manifest import canonical, fingerprint, read_manifest

SEEN = ".sources.json"
CHANGED = "sources have changed since they were last compared"
BATCH = 256  # Sources that are looked up at once.
MOST_UNREADABLE = 1000  # Files that are noted as unreadable. With more of them no digest is stored.


class StoredDigest(BaseModel):
    """What is stored beside a corpus: sources with this digest give this fingerprint, as long as the files that could
    not be read (paths, each with its first unreadable byte) still cannot be.
    """

    model_config = ConfigDict(extra="forbid")

    digest: str
    fingerprint: str
    root: str  # Of the sources, relative to the folder or manifest of videos.
    unreadable: dict[str, int] = {}


def corpus_fingerprint_now(
    corpus: Path, videos: Path | None, settings: CorpusSettings, compare: bool = True
) -> tuple[str | None, str]:
    """Return the fingerprint that the corpus would get now, without reading any video, or why it is not known.

    Returns (fingerprint, ""), or (None, reason) if files are new or changed and would have to be read first. Without
    `compare`, sources that do not look as they were last seen, or of which no corpus was made yet, are not compared
    with what is known of them: then the fingerprint is not known either, even if only their times have changed.

    Raises:
        ConfigError: the manifest or folder of videos cannot be listed.
    """
    manifest = read_manifest(corpus)
    if videos is None or not videos.exists():
        if manifest is None:
            return None, "no videos to make it from"
        if videos is None or manifest.settings == stored_part(settings):
            return manifest.fingerprint, ""
        return None, f"{videos} is gone, and the settings changed"
    if manifest is None and not compare:
        check_sources(videos, settings)
        return None, "it was not made yet"
    stored, digest = _read_digest(corpus), digest_of_sources(corpus, videos, settings)
    if stored is not None and stored.digest == digest and _still_unreadable(videos, stored):
        return stored.fingerprint, ""
    if stored is not None and not compare:
        return None, CHANGED
    found = _compare(corpus, videos, settings)
    if found.changed and manifest is not None and modalities_of(manifest) != settings.modalities:
        return None, f"modalities: {', '.join(modalities_of(manifest))} -> {', '.join(settings.modalities)}"
    if found.changed:
        more = f" and {found.changed - 1} more" if found.changed > 1 else ""
        return None, f"new or changed source {found.first}{more}"
    store_digest(corpus, videos, settings, digest, found.fingerprint, found.root, found.unreadable)
    return found.fingerprint, ""


@dataclass(frozen=True)
class Comparison:
    """Sources compared with what is known of them: the number of new or changed files, and the first of their names.

    root: of the sources. fingerprint: of a corpus of them, if nothing has changed. unreadable: files that cannot be
    read, each with its first unreadable byte.
    """

    root: Path
    changed: int
    first: str
    fingerprint: str
    unreadable: dict[str, int]


def _compare(corpus: Path, videos: Path, settings: CorpusSettings) -> Comparison:
    """Compare all sources with earlier surveys. Holds about 80 bytes for a known file."""
    root, sources = open_sources(videos, settings)
    notes = survey_notes(corpus, settings.modalities)
    known = pack_known(itertools.chain(known_sources(corpus, settings.modalities, PACKED), read_survey(notes)))
    changed, first, unreadable = bytearray(), "", dict[str, int]()

    def states() -> Iterator[tuple[Source, tuple[int, str]]]:
        nonlocal first
        while batch := list(itertools.islice(sources, BATCH)):
            for source, state in zip(batch, look_up(known, root, [each.path for each in batch]), strict=True):
                if state is None:
                    first = min(first, source.path) if changed else source.path
                    changed.extend(path_key(source.path))
                    continue
                if state.unreadable_at is not None:
                    unreadable[source.path] = state.unreadable_at
                yield source, (state.size, state.sha256)

    found = hash_sources(settings, states())
    count = len(np.unique(np.frombuffer(changed, "<u8")[::2])) if changed else 0
    return Comparison(root, count, first, found, unreadable)


def digest_of_sources(corpus: Path, videos: Path, settings: CorpusSettings) -> str | None:
    """Return a digest of what the sources look like: it is equal if they would be listed alike, with the same settings
    and the same sizes and times of all files. None if that cannot be told without listing them.

    Of a layout in a folder, it covers every file in the folder except the corpus and what is stored beside it, and the
    file of the code that reads it.

    Raises:
        ConfigError: the manifest or folder of videos cannot be listed.
    """
    total, count, start = 0, 0, [STAGE_VERSION, stored_part(settings)]
    if settings.layout is not None:
        try:
            reader = inspect.getfile(LAYOUTS.find(settings.layout))
        except TypeError:  # Not a function of a module.
            return None
        start.append(_state(reader))
    for text in _texts(corpus, videos, settings):
        if text is None:
            return None
        # A sum: the file system may give its files in any order.
        total += int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest())
        count += 1
    return fingerprint([*start, count, f"{total % (1 << 256):x}"])


def _texts(corpus: Path, videos: Path, settings: CorpusSettings) -> Iterator[str | None]:
    """Yield a text for each source that changes if the source does; None if a change could not be told from it."""
    root = str(videos if videos.is_dir() else videos.parent)
    if settings.layout is not None and not videos.is_dir():  # The reader holds all sources.
        for number, source in enumerate(list_corpus(videos, layout=settings.layout).sources):
            yield f"{number} {_state(source.path, root)} {_row(source)}"
    elif settings.layout is not None:
        own = _names_of(corpus, videos)
        for found in walk(videos, hidden=True):
            if found.name.startswith(own):
                continue
            if found.kind == "link":  # Its reader may read lists behind it.
                yield None
            state = _state(found.name, root) if found.kind == "file" else found.kind
            yield f"{state} {found.name}"
    elif videos.is_dir():
        for found in walk(videos):
            if isinstance(source_or_reject(found, settings.label_from_folder), Source):
                yield f"{_state(found.name, root)} {found.name}"
    elif videos.suffix.lower() not in TABLE_SUFFIXES:
        list_corpus(videos)  # Raises the error.
    else:
        rows = enumerate(stream_rows(videos, stream_table(videos)))
        while batch := list(itertools.islice(rows, BATCH)):
            sources = [(number, row.source) for number, row in batch if isinstance(row, SourceRow)]
            states = states_of(root, [source.path for _, source in sources])
            for (number, source), (size, mtime_ns) in zip(sources, states, strict=True):
                yield f"{number} {size} {mtime_ns} {_row(source)}"


def _names_of(corpus: Path, videos: Path) -> tuple[str, ...]:
    """Return with what the names of the corpus's files, and of files beside it, begin; nothing if it is elsewhere."""
    corpus, videos = corpus.resolve(), videos.resolve()
    if not corpus.is_relative_to(videos):
        return ()
    beside = corpus.relative_to(videos).parent
    own = (f"{corpus.name}/", f".{corpus.name}.", f"{STALE}/")
    return tuple(name if beside == Path() else f"{beside}/{name}" for name in own)


def _state(name: str, root: str = "") -> str:
    size, mtime_ns = state_of(root, name)
    return f"{size} {mtime_ns}"


def _row(source: Source) -> str:
    return canonical([source.path, source.start_s, source.end_s, source.split, sorted(source.labels.items())])


def store_digest(
    corpus: Path,
    videos: Path,
    settings: CorpusSettings,
    digest: str | None,
    found: str,
    root: Path,
    unreadable: dict[str, int],
) -> None:
    """Store beside a corpus that its sources, which had this digest before they were compared or surveyed, give the
    fingerprint `found`; nothing if their digest is another one now, or if the folder cannot be written to.
    """
    stored = StoredDigest(
        digest=digest or "", fingerprint=found, root=os.path.relpath(root, videos), unreadable=unreadable
    )
    if digest is None or len(unreadable) > MOST_UNREADABLE or stored == _read_digest(corpus):
        return
    if digest_of_sources(corpus, videos, settings) != digest:
        return
    with contextlib.suppress(OSError):
        write_text(seen_file(corpus), stored.model_dump_json(indent=2) + "\n")


def seen_file(corpus: Path) -> Path:
    """Return the path of the file with the digest of a corpus's sources."""
    return corpus.with_name(f".{corpus.name}{SEEN}")


def sources_root(corpus: Path, videos: Path, layout: str | None) -> Path | None:
    """Return the folder to which the paths of a corpus's sources are relative; None if it is not known on this machine.

    videos: the folder or manifest of which the corpus was made. layout: `corpus.layout`; the root of a layout is known
    only where a digest of the sources is stored beside the corpus.
    """
    if (stored := _read_digest(corpus)) is not None:
        return Path(os.path.normpath(videos / stored.root))
    if layout is not None or not videos.exists():
        return None
    return videos if videos.is_dir() else videos.parent


def _read_digest(corpus: Path) -> StoredDigest | None:
    try:
        return StoredDigest.model_validate_json(seen_file(corpus).read_bytes())
    except (OSError, ValueError):  # Of these is pydantic's ValidationError.
        return None


def _still_unreadable(videos: Path, stored: StoredDigest) -> bool:
    root = Path(os.path.normpath(videos / stored.root))
    return all(is_unreadable(root / path, at) for path, at in stored.unreadable.items())
