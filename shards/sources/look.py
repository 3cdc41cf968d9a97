"""Look at source files: probe each in a child process, and hash it."""

from collections import deque
from collections.abc import Collection, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from shards.cores import core_count
from shards.errors import Killed, MediaError, SourceError
from shards.media.limits import limits_of
from shards.media.probe import Probe, probe_file
from shards.media.sandbox import ordered_map
from shards.media.source_file import hash_source, stat_of
from shards.reject import Kind
from shards.settings import CorpusSettings, is_url
from shards.sources.fetched import Content, fetching
from shards.sources.shots import with_boundaries
from shards.sources.surveyed import Surveyed

UNREADABLE = "cannot be read: "
# Raise it when files are probed in another way: results of older versions are then used for finished corpora, and files
# are probed again for new ones. Version 2 reads all packets; version 1 trusted headers.
PROBE_VERSION = 2
# Decoders that give several frames per packet, or times that differ by more than 20 ms. Before PROBE_VERSION 2 all
# frames without a timestamp were stored as silence.
SOUND = tuple(
    "8svx_ adpcm_ alac amr ape atrac cook g722 g723_1 gsm ilbc mpc ra_ real_ sipr truespeech wma".split()  # noqa: SIM905
)
# In AVI these were stored a frame late, and some frames twice or not at all.
PICTURES_IN_AVI = ("h264", "hevc", "mpeg1video", "mpeg2video", "mpeg4", "vc1")
AVI = (".avi", ".divx")


def damage_of(entry: Surveyed) -> str:
    """Return what an earlier version did wrong for a stored source; "" if nothing is known."""
    if entry.reason or entry.probe_version >= PROBE_VERSION:
        return ""
    if entry.audio_codec.startswith(SOUND):
        return f"parts of its sound ({entry.audio_codec}) were stored as silence"
    if entry.video_codec in PICTURES_IN_AVI and entry.path.lower().endswith(AVI):
        return f"pictures ({entry.video_codec} in AVI), where they have B-frames, were stored late, twice or not at all"
    return ""


def look_at(
    root: Path, names: Iterable[str], settings: CorpusSettings, copies: Path
) -> Generator[tuple[Surveyed, bool]]:
    """Yield the result for each file, in order, and whether to store it: not that of a process killed from outside.

    copies: a folder for files of object stores, each for as long as a process works on it.

    With `settings.cut_at_shots` it has the file's shot boundaries, for which all pictures are decoded.
    """
    workers, limits, modalities = settings.workers or core_count(), limits_of(settings), settings.modalities
    hashing: deque[tuple[str, tuple[int, int], Future[str]]] = deque()
    contents: dict[str, Content] = {}

    def fetched(url: str, content: Content) -> None:
        # Fetched again, for its shots, it must be what was probed.
        if contents.setdefault(url, content).sha256 != content.sha256:
            raise SourceError(f"{url} was replaced while it was surveyed")

    fetch = fetching(copies, fetched)
    pool = ThreadPoolExecutor(workers)

    def jobs() -> Iterator[tuple[str, str, Collection[str]]]:
        for name in names:
            # The time is read first: a file that changes while it is read then counts as changed, and is read again.
            if is_url(name):
                hashing.append((name, (-1, -1), Future()))
            else:
                hashing.append((name, stat_of(root / name), pool.submit(hash_source, root / name)))
            if settings.cut_at_shots:
                probing.append(name)
            yield str(root), name, modalities

    probing: deque[str] = deque()  # The names of the files whose answers were not taken yet.
    answers = probes = ordered_map(probe_file, jobs(), workers, limits, fetch)
    if settings.cut_at_shots:
        answers = with_boundaries(root, ((probing.popleft(), answer) for answer in probes), settings, fetch)
    try:
        for answer in answers:
            name, (size, mtime_ns), hashed = hashing.popleft()
            content = ""
            if is_url(name):
                size, mtime_ns, sha256 = contents.pop(name, (-1, -1, ""))
                hashed.set_result(sha256)
                if isinstance(answer, SourceError):
                    answer = MediaError(str(answer), "missing")
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
            final = not isinstance(answer, Killed)
            probed = (Probe(), str(answer), answer.kind) if isinstance(answer, MediaError) else answer
            yield _surveyed(name, size, mtime_ns, content, *probed), final
    finally:
        answers.close()
        probes.close()
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
