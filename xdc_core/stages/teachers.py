"""The teachers stage: decide which modalities' clusters each encoder learns in a round (only with `train.protect`)."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from shards.errors import StageError
from shards.store.build import Outcome
from shards.store.stage import Stage, Task
from xdc_core.config.methods import heads
from xdc_core.config.schema import Config, RunsOn
from xdc_core.config.selection import SelectSettings
from xdc_core.documents.teachers import FILE_NAME, Pair, Teachers, write_teachers
from xdc_core.runs.node import SHARD, Node
from xdc_core.runs.run import Run

CLIPS = 10_000  # More take longer, and give nearly the same numbers.
SUPPORT = 2.0  # Standard errors by which a difference must be other than 0 to be acted on.
# Nats per clip and their standard error, by (student, teacher).
Shared = Mapping[tuple[str, str], tuple[float, float]]


@dataclass(frozen=True)
class Teaching:
    """The part of the configuration for the stage. heads: the label sources of every encoder by the method."""

    seed: int
    learn_splits: list[str] | None
    heads: dict[str, list[str]]
    protect: float
    select: SelectSettings
    runs_on: RunsOn

    def hashed(self) -> dict[str, Any]:
        """Return the settings that decide who learns from whom."""
        return {
            "seed": self.seed,
            "learn_splits": self.learn_splits,
            "heads": self.heads,
            "protect": self.protect,
            **self.select.hashed(),
        }


def teachers(task: Task[Teaching]) -> Outcome:
    """Write teachers.json: what each modality's clusters share with the others' features, and who learns from whom.

    Measured on the clips to learn from, without labels of the corpus: on all, or on 10,000 of randomly chosen
    recordings.

    Raises:
        StageError: fewer than four clips to learn from have a pseudo-label in all modalities.
    """
    from xdc_core.probes.shared import FOLDS, measure_pairs, read_sample

    given, modalities = task.settings, list(task.settings.heads)
    sample, features = read_sample(task, modalities, CLIPS, whole=True)
    if not features:
        raise StageError(
            f"{task.node}: {len(sample.keys)} clips in corpus.learn_splits ({given.learn_splits}) that `select` keeps "
            f"have a pseudo-label in all of {', '.join(modalities)}. At least {FOLDS} are needed."
        )
    pairs = measure_pairs(sample, features, task.progress)
    shared = decisive(pairs)
    learns = {name: learned(name, sources, shared, given.protect) for name, sources in given.heads.items()}
    write_teachers(
        task.out,
        Teachers(protect=given.protect, clips=len(sample.keys), pairs=tuple(pairs), learns=learns),
    )
    summary: dict[str, Any] = {f"{name} learns": ", ".join(sources) for name, sources in learns.items()}
    summary |= {f"{student} from {teacher}": nats for (student, teacher), (nats, _) in shared.items()}
    return Outcome(len(sample.keys), 0, summary, (FILE_NAME,))


def decisive(pairs: Sequence[Pair]) -> Shared:
    """Return what is compared between modalities: what is shared within recordings, if any pair shares anything there.

    Else, as in corpora with one clip a recording, what is shared over all clips.
    """
    inside = {
        (pair.student, pair.teacher): (pair.within, pair.within_error)
        for pair in pairs
        if pair.within is not None and pair.within_error is not None
    }
    if any(nats > SUPPORT * error for nats, error in inside.values()):
        return inside
    return {(pair.student, pair.teacher): (pair.shared, pair.shared_error or 0.0) for pair in pairs}


def learned(modality: str, sources: Sequence[str], shared: Shared, protect: float) -> tuple[str, ...]:
    """Return the label sources that an encoder learns in a round, of those that the method gives it.

    The clusters of another modality are left out if they share less than `protect` times as much with this modality's
    features as this modality's clusters share with the other's features, by more than two standard errors of the
    difference. If nothing is left the encoder learns its own clusters.
    """

    def teaches(source: str) -> bool:
        if (modality, source) not in shared:
            return True
        (learns, error), (gives, other_error) = shared[modality, source], shared[source, modality]
        difference = max(0.0, learns) - protect * max(0.0, gives)
        return difference >= -SUPPORT * math.hypot(error, protect * other_error)

    return tuple(filter(teaches, sources)) or (modality,)


def _nodes(config: Config, number: int | None) -> list[Node]:
    if number is None or number >= config.last_round or not config.protects:
        return []
    return [Node("teachers", None, number)]


def _inputs(config: Config, node: Node) -> list[Node]:
    of_all = [Node(stage, name, node.round) for stage in ("extract", "label") for name in config.modalities]
    return [SHARD, *of_all]


def _settings(config: Config, node: Node) -> Teaching:
    return Teaching(
        seed=config.seed,
        learn_splits=config.corpus.learn_splits,
        heads={name: list(sources) for name, sources in heads(config.method, config.modalities).items()},
        protect=config.train.protect,
        select=config.select,
        runs_on=config.runs_on,
    )


TEACHERS: Stage[Config, Run, Teaching] = Stage(
    name="teachers",
    version=2,
    summary="Decide which modalities' clusters each encoder learns (with train.protect).",
    unit="clip",
    folder="teachers",
    of=None,
    each_round=True,
    library="torch",
    modules=("xdc_core.probes.shared", "sklearn.linear_model", "sklearn.model_selection"),
    nodes=_nodes,
    inputs=_inputs,
    settings=_settings,
    work=teachers,
)
