"""maps.json: what the maps for search were fitted to, and how."""

from pathlib import Path
from typing import Any

from xdc_core.documents.document import Document, Number, read_document, write_document

FILE_NAME = "maps.json"


class OwnSpace(Document):
    """The space of one modality. clips: fitted to. width: of the features. ridge: in units of a feature's variance.

    features, encoder: the fingerprints of the directories that they are from.
    """

    clips: int
    width: int
    ridge: Number
    features: str
    encoder: str | None


class SharedPair(Document):
    """The space that two modalities share. pairs: clips fitted to; components: of the space. why: why there is none.

    chosen: the ridge, the power, and the held-out score of every candidate. correlations: the first ten.
    """

    modalities: tuple[str, str]
    pairs: int
    components: int
    chosen: dict[str, Any]
    correlations: list[Number]
    why: str = ""


class MapsDocument(Document):
    """The maps of a round's features. splits: those that were learnt from; None: all. warnings: for readers."""

    round: int
    splits: list[str] | None
    modalities: dict[str, OwnSpace]
    shared: list[SharedPair]
    warnings: list[str]

    def between(self, first: str, second: str) -> SharedPair | None:
        """Return the pair of two modalities, in either order; None if the run does not have both."""
        return next((pair for pair in self.shared if set(pair.modalities) == {first, second}), None)


def read_maps_document(directory: Path) -> MapsDocument:
    """Read maps.json of a directory of the maps stage. Raises StageError as `read_document` does."""
    return read_document(MapsDocument, directory / FILE_NAME, "maps")


def write_maps_document(directory: Path, document: MapsDocument) -> None:
    """Write maps.json into a directory of the maps stage."""
    write_document(directory / FILE_NAME, document)
