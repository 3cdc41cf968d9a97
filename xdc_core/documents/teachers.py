"""teachers.json: what the clusters of each modality share with the features of the others, and who learns from whom."""

from pathlib import Path

from xdc_core.documents.document import Document, Number, read_document, write_document

FILE_NAME = "teachers.json"


class Pair(Document):
    """One modality as the student of another.

    shared: nats per clip by which a linear classifier on the student's features predicts the teacher's pseudo-labels
    better than their frequencies do, on clips that it was not fitted to; about 0 if nothing is shared, at most the
    entropy of the pseudo-labels. accuracy: of this classifier. chance: share of the teacher's largest cluster.
    within: the same within recordings, of the student's features less their mean over a clip's recording; null where
    most recordings have one clip. shared_error, within_error: standard errors; null in files that lack them.
    """

    student: str
    teacher: str
    shared: Number
    accuracy: Number
    chance: Number
    shared_error: Number | None = None
    within: Number | None = None
    within_error: Number | None = None


class Teachers(Document):
    """What the modalities' clusters share in one round, and which label sources each encoder learns in it.

    protect: the setting `train.protect`. clips: number of clips that were measured. learns: by modality.
    """

    protect: Number
    clips: int
    pairs: tuple[Pair, ...]
    learns: dict[str, tuple[str, ...]]


def read_teachers(directory: Path) -> Teachers:
    """Read teachers.json of a teachers stage's directory. Raises StageError as `read_document` does."""
    return read_document(Teachers, directory / FILE_NAME, "teachers")


def write_teachers(directory: Path, teachers: Teachers) -> None:
    """Write teachers.json into a teachers stage's directory."""
    write_document(directory / FILE_NAME, teachers)
