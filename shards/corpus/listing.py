"""List the sources of a corpus, from a folder, a manifest, or a data set in its official layout."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from shards.errors import ConfigError
from shards.settings import CorpusSettings
from shards.sources.manifest import SourceRow, list_rows, stream_rows
from shards.sources.source import Listing, Source, list_folder, source_or_reject
from shards.sources.split import check_learn_splits
from shards.sources.table import TABLE_SUFFIXES, stream_table
from shards.sources.walk import walk


def list_corpus(videos: Path, label_from_folder: bool = False, layout: str | None = None) -> Listing:
    """List a folder (recursively) or a .csv or .parquet manifest. Order does not depend on the file system.

    With a `layout` (shards/layouts/registry.py), `videos` is a data set, and the labels are those of its lists.

    Raises:
        ConfigError: `videos` does not exist, is neither, cannot be read, has another layout, or has no input at all.
    """
    if layout is not None:
        from shards.layouts.registry import read_dataset  # The readers of layouts use this package.

        dataset = read_dataset(layout, videos)
        listing = Listing(dataset.root, dataset.sources, dataset.rejects)
    elif videos.is_dir():
        listing = list_folder(videos, label_from_folder)
    elif not videos.exists():
        raise ConfigError(f"corpus.videos: {videos} does not exist. Give a folder of videos or a manifest.")
    elif videos.suffix.lower() in TABLE_SUFFIXES:
        listing = list_rows(videos, stream_table(videos))
    else:
        raise ConfigError(
            f"corpus.videos: {videos} is a file that ends in {videos.suffix!r}. "
            "Give a folder of videos, or a manifest that ends in .csv or .parquet."
        )
    if not listing.sources:
        reasons = "; ".join(f"{reject.source}: {reject.reason}" for reject in listing.rejects[:3])
        raise ConfigError(f"corpus.videos: {videos} holds no video. {reasons or 'It is empty.'}")
    return listing


def open_sources(videos: Path, settings: CorpusSettings) -> tuple[Path, Iterator[Source]]:
    """Return the root of the sources, and the sources of `list_corpus` in its order, one after the other.

    Of a folder, the names in one of its folders are held; of a manifest, which is read twice, 16 bytes a row. The
    readers of layouts hold all. While the sources are iterated, the errors of `list_corpus` may be raised.
    """
    if settings.layout is None and videos.is_dir():
        return videos, _not_none(videos, settings, _of_folder(videos, settings, ordered=True))
    if settings.layout is None and videos.suffix.lower() in TABLE_SUFFIXES and not _has_duplicates(videos):
        return videos.parent, _not_none(videos, settings, _of_table(videos))
    listing = list_corpus(videos, settings.label_from_folder, settings.layout)
    return listing.root, iter(listing.sources)


def check_sources(videos: Path, settings: CorpusSettings) -> None:
    """Check that there is a source, and that every split to learn from exists. Reads no more of a folder than needed.

    Raises:
        ConfigError: as `list_corpus` and `check_learn_splits`.
    """
    if settings.layout is None and videos.is_dir():
        splits = {source.split for source in itertools.islice(_of_folder(videos, settings, ordered=False), 1)}
    else:
        splits = {source.split for source in open_sources(videos, settings)[1]}
    if not splits:
        list_corpus(videos, settings.label_from_folder, settings.layout)
    check_learn_splits(settings.learn_splits, splits, str(videos))


def _of_folder(folder: Path, settings: CorpusSettings, ordered: bool) -> Iterator[Source]:
    for found in walk(folder, ordered=ordered):
        source = source_or_reject(found, settings.label_from_folder)
        if isinstance(source, Source):
            yield source


def _of_table(manifest: Path) -> Iterator[Source]:
    rows = stream_rows(manifest, stream_table(manifest))
    yield from (row.source for row in rows if isinstance(row, SourceRow))


def _has_duplicates(manifest: Path) -> bool:
    spans = bytearray()
    for row in stream_rows(manifest, stream_table(manifest)):
        if isinstance(row, SourceRow):
            spans += row.span
    halves = np.frombuffer(spans, "<u8")[::2] if spans else np.zeros(0, "<u8")
    return len(np.unique(halves)) < len(halves)


def _not_none(videos: Path, settings: CorpusSettings, sources: Iterator[Source]) -> Iterator[Source]:
    """Yield the sources. Raises the error of `list_corpus` if there is none."""
    source = None
    for source in sources:
        yield source
    if source is None:
        list_corpus(videos, settings.label_from_folder, settings.layout)


def check_places(corpus: Path, videos: Path) -> None:
    """Raise ConfigError if a corpus would replace the videos that it is made from."""
    if videos.resolve().is_relative_to(corpus.resolve()):
        raise ConfigError(
            f"corpus.path: {corpus} is where corpus.videos ({videos}) lies; the corpus would take its place. "
            "Give the corpus a directory of its own."
        )
