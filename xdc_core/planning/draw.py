"""Draw sources for a plan, read their headers, and list those that are tried."""

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from shards.cores import core_count
from shards.errors import ConfigError, SourceError
from shards.media.limits import limits_of
from shards.media.probe import header_s
from shards.media.sandbox import ordered_map
from shards.progress import Progress, silent
from shards.settings import CorpusSettings, is_url
from shards.sources.columns import SourceColumns
from shards.sources.fetched import located
from shards.sources.source import Listing, Source
from shards.store.files import write_text

HEADERS = 400  # Sources whose headers are read, of those in the listing.
WINDOW_CLIPS = 20  # Of a longer source only windows of so many clips in all are tried.
FEWEST_WINDOWS = 8  # In a sample of fewer long sources: a range comes from the differences between windows.


@dataclass(frozen=True)
class Drawn:
    """A source of the sample, or one of several equal stretches of it.

    number: of the source in the sample. seconds: of the stretch, by the source's header and span; 0 if it cannot be
    read. tried: the part of it that is cut, with an absolute path. tried_s: the seconds of this part.
    """

    number: int
    source: Source
    seconds: float
    tried: Source
    tried_s: float


def numbers_drawn(whole: int, count: int, seed: int) -> list[int]:
    """Return `count` numbers below `whole`, or all of them, sorted. The same seed gives the same."""
    if count >= whole:
        return list(range(whole))
    return sorted(np.random.default_rng(seed).choice(whole, count, replace=False).tolist())


def seconds_of(
    listing: Listing, sources: Sequence[Source], settings: CorpusSettings, progress: Progress = silent
) -> list[float]:
    """Return the seconds of sources by their headers, in child processes: 0 for a file that cannot be used.

    A source with a span has the part of it that the file has.

    Raises:
        ConfigError: a source is in an object store; its header cannot be read by itself.
    """
    if far := next((source.path for source in sources if is_url(source.path)), None):
        raise ConfigError(
            f"{far} is in an object store, and xdc plan reads local files. Copy some of the sources to a disk, make a "
            "run of them (xdc init) and plan that one: rates a clip are the same."
        )
    jobs = ((str(listing.root), source.path, settings.modalities) for source in sources)
    answers = ordered_map(header_s, jobs, settings.workers or core_count(), limits_of(settings))
    found = []
    for source, answer in zip(sources, answers, strict=True):
        whole = answer if isinstance(answer, float) else 0.0
        end_s = whole if source.end_s is None else min(whole, source.end_s)
        found.append(max(0.0, end_s - (source.start_s or 0.0)))
        progress(len(found), len(sources), "headers read")
    return found


def tried_parts(
    root: Path, sources: Sequence[Source], lasted: Sequence[float], settings: CorpusSettings
) -> list[Drawn]:
    """Return what is tried of the sources of a sample. lasted: their seconds.

    Of a source longer than WINDOW_CLIPS clips a window round its middle is tried. In a small sample it is divided into
    equal stretches with a smaller window each, so that there are FEWEST_WINDOWS to compare. Of a broken source, of
    short ones and of segments, all is tried.
    """
    most = WINDOW_CLIPS * settings.clip_seconds
    stretches = math.ceil(FEWEST_WINDOWS / max(1, len(sources)))
    window = math.ceil(WINDOW_CLIPS / stretches) * settings.clip_seconds
    parts = list[Drawn]()
    for number, (source, seconds) in enumerate(zip(sources, lasted, strict=True)):
        whole = replace(source, path=str(Path(located(root, source.path)).resolve()))
        if seconds <= most or (settings.segment_seconds is not None and source.end_s is not None):
            parts.append(Drawn(number, source, seconds, whole, seconds))
            continue
        stretch = seconds / stretches
        for place in range(stretches):
            start_s = (source.start_s or 0.0) + place * stretch + max(0.0, stretch - window) / 2
            tried_s = min(window, stretch)
            tried = replace(whole, start_s=start_s, end_s=start_s + tried_s)
            parts.append(Drawn(number, source, stretch, tried, tried_s))
    return parts


def write_sample(path: Path, drawn: Sequence[Drawn]) -> None:
    """Write the manifest of the sample: absolute paths, spans, splits and labels.

    Raises:
        SourceError: a path begins or ends with white space, which a manifest cannot say.
    """
    names = sorted({name for each in drawn for name in each.tried.labels})
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["path", "start_s", "end_s", "split", *names])
    for tried in (each.tried for each in drawn):
        if tried.path != tried.path.strip():
            raise SourceError(f"{tried.path!r} begins or ends with white space: rename it, or use another sample.")
        start_s, end_s = ("" if value is None else repr(value) for value in (tried.start_s, tried.end_s))
        writer.writerow([tried.path, start_s, end_s, tried.split, *(tried.labels.get(name, "") for name in names)])
    write_text(path, text.getvalue())


def learnt_share(sources: SourceColumns, splits: Sequence[str] | None) -> float:
    """Return the share of the sources that is in the splits to learn from (None: all)."""
    if splits is None or not len(sources):
        return 1.0
    found = sources.table["split"].to_pylist()
    return sum((split or "") in splits for split in found) / len(found)
