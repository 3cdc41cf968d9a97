"""List the sources of a corpus, from a folder, a manifest, or a data set in its official layout."""

from pathlib import Path

from shards.errors import ConfigError
from shards.sources.manifest import list_rows
from shards.sources.source import Listing, list_folder
from shards.sources.table import TABLE_SUFFIXES, read_table


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
        listing = list_rows(videos, read_table(videos))
    else:
        raise ConfigError(
            f"corpus.videos: {videos} is a file that ends in {videos.suffix!r}. "
            "Give a folder of videos, or a manifest that ends in .csv or .parquet."
        )
    if not listing.sources:
        reasons = "; ".join(f"{reject.source}: {reject.reason}" for reject in listing.rejects[:3])
        raise ConfigError(f"corpus.videos: {videos} holds no video. {reasons or 'It is empty.'}")
    return listing


def check_places(corpus: Path, videos: Path) -> None:
    """Raise ConfigError if a corpus would replace the videos that it is made from."""
    if videos.resolve().is_relative_to(corpus.resolve()):
        raise ConfigError(
            f"corpus.path: {corpus} is where corpus.videos ({videos}) lies; the corpus would take its place. "
            "Give the corpus a directory of its own."
        )
