"""What every source file holds: size, content hash, duration, codecs. Done once a file, remembered in a file."""

import json
import os
from collections.abc import Collection, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from shards.commit import sha256_of
from shards.corpus import Listing
from shards.errors import MediaError
from shards.fault import fault_point
from shards.probe import Probe, probe
from shards.progress import Progress
from shards.sandbox import Limits, ordered_map
from shards.settings import BOTH


@dataclass(frozen=True)
class Surveyed:
    """One source file. `reason` says why it cannot be used; then the probe's fields are empty."""

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


def survey_file(root: str, name: str, modalities: Collection[str] = BOTH) -> Surveyed:
    """Hash and probe one file. Runs in a child process of the sandbox; a file that is no use gets a reason."""
    path = Path(root) / name
    size, mtime_ns = stat_of(path)
    try:
        content = sha256_of(path) if path.is_file() else ""
        found: Probe = probe(path, modalities)
    except MediaError as error:
        return Surveyed(name, size, mtime_ns, content, reason=str(error))
    except OSError as error:
        return Surveyed(name, size, mtime_ns, "", reason=f"cannot be read: {error.strerror}")
    return Surveyed(name, size, mtime_ns, content, **asdict(found))


def stat_of(path: Path) -> tuple[int, int]:
    """Size in bytes and modification time in ns; (-1, -1) where there is no such file."""
    try:
        status = os.stat(path)
    except OSError:
        return -1, -1
    return status.st_size, status.st_mtime_ns


def read_survey(path: Path) -> Iterator[Surveyed]:
    """The lines of a survey file; a last line that a kill cut short is left out."""
    if not path.exists():
        return
    for line in path.read_text(encoding="utf-8").split("\n"):
        try:
            yield Surveyed(**json.loads(line))
        except (ValueError, TypeError):
            continue


def survey(
    listing: Listing,
    known: Iterable[Surveyed],
    notes: Path,
    workers: int,
    limits: Limits,
    progress: Progress,
    modalities: Collection[str] = BOTH,
) -> dict[str, Surveyed]:
    """Survey every file of a listing, by path. What is new is appended to `notes` at once, so a kill loses nothing.

    `known` are earlier findings: they hold as long as a file's size and modification time are the same. They and
    `notes` must be of the same modalities: a file that is no use for the one may be good for the other.
    """
    names = sorted({source.path for source in listing.sources})
    found = {
        entry.path: entry
        for entry in (*known, *read_survey(notes))
        if (entry.size, entry.mtime_ns) == stat_of(listing.root / entry.path)
    }
    unknown = [name for name in names if name not in found]
    if not unknown:
        return {name: found[name] for name in names}
    notes.parent.mkdir(parents=True, exist_ok=True)
    answers = ordered_map(survey_file, ((str(listing.root), name, modalities) for name in unknown), workers, limits)
    with notes.open("a", encoding="utf-8") as file:
        for count, (name, answer) in enumerate(zip(unknown, answers, strict=True), start=1):
            if isinstance(answer, MediaError):  # The child died over it.
                answer = Surveyed(name, *stat_of(listing.root / name), sha256="", reason=str(answer))
            found[name] = answer
            fault_point("before note")
            file.write("\n" + json.dumps(asdict(answer)))
            file.flush()
            fault_point("after note")
            progress(count, len(unknown), "files probed")
    return {name: found[name] for name in names}
