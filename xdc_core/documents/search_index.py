"""index.json: what the stored index of a space holds, and what an approximate one finds."""

from pathlib import Path
from typing import Literal

from xdc_core.documents.document import Document, Number, read_document, write_document

FILE_NAME = "index.json"


class Tried(Document):
    """What an approximate search finds if it reads so many lists. recall: share of the 10 nearest."""

    probes: int
    recall: Number


class Approximate(Document):
    """An inverted file. lists: number. probes: lists that a search reads. recall: with these, of so many queries.

    queries: clips of the corpus. tried: in order; the first with enough recall is used.
    """

    lists: int
    probes: int
    recall: Number
    queries: int
    tried: list[Tried]


class ShardRows(Document):
    """A shard's name, and how many vectors it has in the index, in the order of its features."""

    shard: str
    rows: int


class SearchIndex(Document):
    """The vectors of one modality's clips in a space. kind: "flat" (all are compared) or "ivf" (approximate).

    features, encoder, maps: the fingerprints of what it was made from.
    """

    kind: Literal["flat", "ivf"]
    clips: int
    components: int
    features: str
    encoder: str | None
    maps: str
    approximate: Approximate | None = None
    shards: list[ShardRows]


def read_search_index(directory: Path) -> SearchIndex:
    """Read index.json of a directory of the search stage. Raises StageError as `read_document` does."""
    return read_document(SearchIndex, directory / FILE_NAME, "search")


def write_search_index(directory: Path, index: SearchIndex) -> None:
    """Write index.json into a directory of the search stage."""
    write_document(directory / FILE_NAME, index)
