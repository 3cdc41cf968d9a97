"""scores.json: the sizes of a label source's clusters, and their agreement with labels."""

from pathlib import Path

from pydantic import Field

from xdc_core.documents.document import Document, Number, read_document, write_document

FILE_NAME = "scores.json"


class Agreement(Document):
    """The agreement of clusters with another grouping of the same clips. The scores are None with fewer than two
    groups.

    clips: number of compared clips. labels: number of groups. nmi, ami, purity: see docs/method.md.
    entropy: bits, mean over clips. accuracy: after Hungarian matching of clusters and labels.
    """

    clips: int
    labels: int
    nmi: Number | None
    ami: Number | None
    purity: Number | None
    entropy: Number | None = None
    accuracy: Number | None = None


class Balance(Document):
    """How the clusters of one clustering were balanced (`label.assign: balanced`).

    iterations: of Sinkhorn and Knopp. squared_distance: mean between two clips to learn from; the temperature of the
    transport is this times `label.temperature`. uneven: before each iteration, the share of all mass that would have to
    move for equal clusters. elsewhere: clips that have another centroid that is nearer.
    """

    iterations: int
    squared_distance: Number
    uneven: list[Number]
    elsewhere: int = 0


class Scores(Document):
    """Sizes and agreement of the pseudo-labels of one label source in one round.

    k: clusters, including empty ones. clips: clips that have a pseudo-label. largest: clips of the largest cluster;
    largest_share: of all. nmi_previous: NMI with the round before; None in the first. labels: agreement by label column
    of the corpus. sizes: clips per cluster. classes, unlabelled: only for true labels (the baseline `supervised`):
    their names, and the number of clips without one. balance: only for balanced labels. clusterings: with
    `cluster.heads` above 1, the same of the second and the further clusterings.
    """

    k: int
    clips: int
    empty: int
    largest: int
    largest_share: Number
    nmi_previous: Number | None = None
    labels: dict[str, Agreement]
    sizes: list[int]
    classes: list[str] = Field([])
    unlabelled: int = 0
    balance: Balance | None = None
    clusterings: list["Scores"] = Field([])

    @property
    def heads(self) -> int:
        """Return the number of clusterings."""
        return 1 + len(self.clusterings)


def read_scores(directory: Path) -> Scores:
    """Read scores.json of a label stage's directory. Raises StageError as `read_document` does."""
    return read_document(Scores, directory / FILE_NAME, "label")


def write_scores(directory: Path, scores: Scores) -> None:
    """Write scores.json into a label stage's directory."""
    write_document(directory / FILE_NAME, scores)
