"""report.json: all measurements of a round, and the histories up to it."""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from xdc_core.documents.document import Document, Number, read_document, write_document
from xdc_core.documents.kmeans import Preprocessing
from xdc_core.documents.results import Spread
from xdc_core.documents.scores import Agreement, Balance
from xdc_core.documents.stop import Decision

FILE_NAME = "report.json"
Level = Literal["good", "look", "bad"]
Diagnostic = tuple[Level, str]


class ReportedNode(Document):
    """A node that the round used, from its manifest: seconds of work, end in UTC, first digits of the
    fingerprint.
    """

    node: str
    stage: str = ""
    round: int | None = None
    rows: int
    rejects: int
    seconds: Number
    finished: str
    fingerprint: str


class TopLabel(Document):
    """A label of a cluster's clips, and its share of those that have a label."""

    label: str
    share: Number


class Cluster(Document):
    """One cluster.

    size: clips. distance: their mean distance to the centroid; None for an empty cluster. purity: share of the most
    frequent label among the labelled clips; top: the three most frequent; None and [] without labels. examples: keys of
    the clips nearest to the centroid, nearest first.
    """

    cluster: int
    size: int
    distance: Number | None = None
    purity: Number | None
    top: list[TopLabel]
    examples: list[str] = Field([])


class Changed(Document):
    """Clips of one label source against the round before.

    clips: those that have a cluster in both rounds. moved: those that are not where most clips of their earlier cluster
    are now. ami: of the clusters of both rounds, 0 by chance; None if all clips were in one cluster.
    """

    clips: int
    moved: int
    ami: Number | None


class ReportedClustering(Document):
    """The second or a further clustering of a label source (`cluster.heads`), from its scores."""

    empty: int
    largest: int
    largest_share: Number
    nmi_previous: Number | None = None
    agreement: dict[str, Agreement]
    balance: Balance | None = None


class ReportedSource(Document):
    """The clusters of one label source, from kmeans.json, scores.json and the pseudo-labels.

    With several clusterings all but `clusterings` is of the first. views: per clip, over which features were averaged.
    balance: of balanced labels. changed: against the round before.
    """

    k: int
    sample: int
    objective: list[Number] = Field([])
    on: str = ""
    preprocessing: Preprocessing = Field(Preprocessing())
    clips: int
    empty: int
    largest: int
    largest_share: Number
    nmi_previous: Number | None = None
    sizes: list[int]
    agreement: dict[str, Agreement]
    clusters: list[Cluster] = Field([])
    views: int = 1
    balance: Balance | None = None
    clusterings: list[ReportedClustering] = Field([])
    changed: Changed | None = None


class ReportedTraining(Document):
    """One encoder's training: loss of the first step, and means over the last tenth of the steps. Also has
    `accuracy_<label source>`. curve: lines of metrics.jsonl, 200 to 400 at most.
    """

    steps: int
    clips: int
    first_loss: Number
    loss: Number
    clips_per_s: Number | None = None
    curve: list[dict[str, Any]] = Field([])


class ReportedEvaluation(Document):
    """An evaluation that is part of the round. headline: its main metric."""

    protocol: str
    data: str
    modality: str | None
    metrics: dict[str, Spread]
    warnings: list[str]
    headline: str


class HistoryRow(Document):
    """One label source in one round. Also has `nmi:<label column>`, `ami:<...>` and `purity:<...>`: see `score`."""

    round: int
    source: str
    k: int
    empty: int
    largest_share: Number | None = None
    nmi_previous: Number | None = None
    loss: Number | None = None

    def score(self, name: Literal["nmi", "ami", "purity"], column: str) -> float | None:
        """Return the agreement with a label column; None if it was not measured."""
        value: float | None = (self.model_extra or {}).get(f"{name}:{column}")
        return value


class SharedRow(Document):
    """What the features of one modality (student) shared with the clusters of another (teacher) in one round, in nats
    per clip: see teachers.json. within: the same within recordings; None where most recordings have one clip.
    """

    round: int
    student: str
    teacher: str
    shared: Number
    within: Number | None = None


class KeptRow(Document):
    """What a modality's features in one round tell of its clusters in an earlier one, `since`: nats per clip, as in
    teachers.json.
    """

    round: int
    modality: str
    since: int
    kept: Number


class EvaluationRow(Document):
    """The headline metric of one evaluation in one round: mean and standard deviation over its trials."""

    round: int
    evaluation: str
    metric: str
    mean: Number | None
    sd: Number | None = None


class Report(Document):
    """A round in numbers. corpus: the summary of its manifest. The histories have a row per round and label source
    (or evaluation, modality, or pair of modalities), from the first round to this one. learns: with `train.protect`,
    the label sources of each encoder in this round. diagnostics: sentences on problems, the worst first.
    clips_by_round: how many clips each round had, the first one first, if the corpus was appended to.
    from_first: the trainings started from the first encoders (`last_training`). stop: the decision of the stopping
    rule, if there is one.
    """

    run: str
    round: int
    method: str
    trained: bool
    from_first: bool = False
    stop: Decision | None = None
    corpus: dict[str, Any] = Field({})
    clips_by_round: list[int] = Field([])
    nodes: list[ReportedNode]
    label_columns: list[str]
    sources: dict[str, ReportedSource]
    training: dict[str, ReportedTraining] = Field({})
    evaluations: dict[str, ReportedEvaluation] = Field({})
    history: list[HistoryRow]
    evaluation_history: list[EvaluationRow] = Field([])
    shared_history: list[SharedRow] = Field([])
    kept_history: list[KeptRow] = Field([])
    learns: dict[str, list[str]] = Field({})
    diagnostics: list[Diagnostic] = Field([], alias="signs")

    @property
    def first_label(self) -> str | None:
        """Return the label column for displays with room for one; None without labels."""
        return next(iter(self.label_columns), None)

    @property
    def growth(self) -> str:
        """Return in words how the corpus has grown, and with how many clips earlier rounds worked; "" if it has not."""
        if not self.clips_by_round:
            return ""
        appends, masked = len(self.corpus["generations"]), self.corpus.get("masked", 0)
        removed = f"; masked clips of removed or changed videos: {masked}" if masked else ""
        rounds = ", ".join(f"round {number}: {clips}" for number, clips in enumerate(self.clips_by_round))
        times = "once" if appends == 1 else f"{appends} times"
        return f"The corpus was appended to {times}{removed}. Clips by round: {rounds}."


def read_report(directory: Path) -> Report:
    """Read report.json of a report stage's directory. Raises StageError as `read_document` does."""
    return read_document(Report, directory / FILE_NAME, "report")


def write_report(directory: Path, report: Report) -> None:
    """Write report.json into a report stage's directory."""
    write_document(directory / FILE_NAME, report)
