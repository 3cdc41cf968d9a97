"""Survey source files: size, content hash, duration, codecs. Each file is read once, and the result is stored."""

import contextlib
import json
from collections import deque
from collections.abc import Collection, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from shards.errors import Killed, MediaError, SourceError
from shards.media.probe import Probe, probe, reach_of
from shards.media.sandbox import Limits, ordered_map
from shards.media.source_file import check_readable, hash_source, stat_of
from shards.progress import Progress
from shards.reject import Kind
from shards.settings import ALL_MODALITIES
from shards.sources.source import Listing
from shards.store.fault import fault_point

UNREADABLE = "cannot be read: "
# Raise it when files are probed in another way: results of older versions are then used for finished corpora, and files
# are probed again for new ones. Version 2 reads all packets; version 1 trusted headers.
PROBE_VERSION = 2


@dataclass(frozen=True)
class Surveyed:
    """The survey of one source file, with the fields of `Probe`.

    If the file cannot be used, `reason` and `kind` say why, and all of the probe's fields except `last_packet_s` are
    empty.

    A file that could not be read has no sha256; `unreadable_at` is the first unreadable byte.
    """

    path: str
    size: int
    mtime_ns: int
    sha256: str
    duration_s: float = 0.0
    width: int = 0
    height: int = 0
    fps: float = 0.0
    video_codec: str = ""
    audio_codec: str = ""
    sample_rate: int = 0
    reason: str = ""
    unreadable_at: int = 0
    kind: Kind | None = None
    header_duration_s: float = 0.0
    sound_duration_s: float = 0.0
    last_packet_s: float = 0.0
    probe_version: int = 1

    @property
    def reach_s(self) -> float:
        """Return the end of the last used packet, of picture and sound, in seconds."""
        return max(self.duration_s, self.sound_duration_s)


FIELDS = tuple(field.name for field in fields(Surveyed))


def still_holds(root: Path, entry: Surveyed) -> bool:
    """Return whether a result is still valid, as far as can be known without reading the file: its size and time are
    the same, and if it could not be read, it still cannot be.
    """
    path = root / entry.path
    if (entry.size, entry.mtime_ns) != stat_of(path):
        return False
    if not entry.reason.startswith(UNREADABLE):
        return True
    try:
        check_readable(path, entry.unreadable_at)
    except SourceError:
        return True
    return False


def probe_file(root: str, name: str, modalities: Collection[str]) -> tuple[Probe, str, Kind | None]:
    """Probe one file, in a child process of the sandbox. An unusable file has the reason in its result.

    Raises:
        SourceError: the file exists, but cannot be read.
    """
    path = Path(root) / name
    try:
        return probe(path, modalities), "", None
    except MediaError as error:
        if stat_of(path)[0] >= 0:
            check_readable(path)
        return Probe(last_packet_s=reach_of(path, modalities)), str(error), error.kind


def read_survey(path: Path) -> Iterator[Surveyed]:
    """Yield the lines of a survey file except damaged ones, such as a last line cut short by a kill."""
    if not path.exists():
        return
    with path.open("rb") as file:
        for line in file:
            try:
                yield Surveyed(**json.loads(line))
            except (ValueError, TypeError):
                continue


def recall(
    listing: Listing, known: Iterable[Surveyed], notes: Path, oldest: int = 1
) -> tuple[dict[str, Surveyed], list[str]]:
    """Return the earlier results that are still valid, by path, and the files of the listing without one.

    `oldest`: results of earlier versions of the probe than this one do not count.
    """
    valid = {
        entry.path: entry
        for entry in (*known, *read_survey(notes))
        if entry.probe_version >= oldest and still_holds(listing.root, entry)
    }
    return valid, sorted({source.path for source in listing.sources} - set(valid))


def survey(
    listing: Listing,
    known: Iterable[Surveyed],
    notes: Path,
    workers: int,
    limits: Limits,
    progress: Progress,
    modalities: Collection[str] = ALL_MODALITIES,
) -> dict[str, Surveyed]:
    """Survey every file of a listing, and return the results by path. New results are appended to `notes` at once, so
    that a kill loses nothing.

    `known` are earlier results, used if they are still valid. They and `notes` must be for the same modalities, because
    a file may be usable for one modality only.

    Files are probed in child processes, within `limits`. Threads of this process hash them, without a time limit.
    """
    surveyed, unknown = recall(listing, known, notes, PROBE_VERSION)
    if unknown:
        bad = 0
        notes.parent.mkdir(parents=True, exist_ok=True)
        new = _look_at(listing.root, unknown, workers, limits, modalities)
        with notes.open("a", encoding="utf-8") as file, contextlib.closing(new):
            for count, (entry, for_good) in enumerate(new, start=1):
                surveyed[entry.path] = entry
                if for_good:
                    fault_point("before note")
                    file.write("\n" + json.dumps(asdict(entry)))
                    file.flush()
                    fault_point("after note")
                bad += bool(entry.reason)
                progress(count, len(unknown), f"files probed, {bad} unusable" if bad else "files probed")
    return {name: surveyed[name] for name in sorted({source.path for source in listing.sources})}


def _look_at(
    root: Path, names: list[str], workers: int, limits: Limits, modalities: Collection[str]
) -> Generator[tuple[Surveyed, bool]]:
    """Yield the result for each file, in order, and whether to store it."""
    hashing: deque[tuple[str, tuple[int, int], Future[str]]] = deque()
    pool = ThreadPoolExecutor(workers)

    def jobs() -> Iterator[tuple[str, str, Collection[str]]]:
        for name in names:
            # The time is read first: a file that changes while it is read then counts as changed, and is read again.
            hashing.append((name, stat_of(root / name), pool.submit(hash_source, root / name)))
            yield str(root), name, modalities

    answers = ordered_map(probe_file, jobs(), workers, limits)
    try:
        for answer in answers:
            name, (size, mtime_ns), hashed = hashing.popleft()
            content = ""
            try:
                content = hashed.result()
                if isinstance(answer, SourceError):
                    raise answer
            except SourceError as error:
                reason = f"{UNREADABLE}{error}"
                yield _surveyed(name, size, mtime_ns, "", Probe(), reason, "unreadable", error.at), True
                continue
            except MediaError as error:
                answer = error
            for_good = not isinstance(answer, Killed)
            probed = (Probe(), str(answer), answer.kind) if isinstance(answer, MediaError) else answer
            yield _surveyed(name, size, mtime_ns, content, *probed), for_good
    finally:
        answers.close()
        pool.shutdown(cancel_futures=True)


def _surveyed(
    name: str,
    size: int,
    mtime_ns: int,
    sha256: str,
    probed: Probe,
    reason: str,
    kind: Kind | None,
    unreadable_at: int = 0,
) -> Surveyed:
    why: dict[str, Any] = {"reason": reason, "kind": kind, "unreadable_at": unreadable_at}
    return Surveyed(name, size, mtime_ns, sha256, **asdict(probed), **why, probe_version=PROBE_VERSION)
