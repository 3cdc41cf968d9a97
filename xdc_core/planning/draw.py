"""Draw sources for a plan, read their headers, and list those that are tried."""

import csv
import io
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
WINDOW_CLIPS = 20  # Of a longer source only a window of so many clips round its middle is tried.


@dataclass(frozen=True)
class Drawn:
    """A source of the sample.

    seconds: of the whole source, by its header and its span; 0 if it cannot be read. tried: the part that is cut, with
    an absolute path. tried_s: the seconds of this part.
    """

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


def tried_part(root: Path, source: Source, seconds: float, settings: CorpusSettings) -> Drawn:
    """Return a source of the sample. Of a long one, a window round its middle is tried; of a broken one, all."""
    tried = replace(source, path=str(Path(located(root, source.path)).resolve()))
    window = WINDOW_CLIPS * settings.clip_seconds
    if settings.segment_seconds is not None and source.end_s is not None:
        return Drawn(source, seconds, tried, seconds)
    if seconds <= window:
        return Drawn(source, seconds, tried, seconds)
    start_s = (source.start_s or 0.0) + (seconds - window) / 2
    return Drawn(source, seconds, replace(tried, start_s=start_s, end_s=start_s + window), window)


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
