"""The measurements of a study: the evaluations of its runs, and what they are called in its results."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from shards.errors import ConfigError
from xdc_core.study.settings import StudySettings

# Label column of each modality in the digits.
DIGIT = {"video": "label", "audio": "label_spoken"}
RETRIEVAL = "retrieval"


@dataclass(frozen=True)
class Measure:
    """An evaluation in every run of a study.

    metric: its name in the results; None: every number under its own name. factor: what is predicted, or compared
    with. evaluation: its entry in xdc.yaml.
    """

    metric: str | None
    modality: str | None
    factor: str
    evaluation: dict[str, Any]


def factor_of(column: str) -> str:
    """Return what a label column is called in the results: `position` for `label_position`."""
    return column.removeprefix("label_")


def word_of(text: str) -> str:
    """Return a text as part of the name of a run, a folder or an evaluation."""
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-")


def targets_of(study: StudySettings, modalities: Sequence[str]) -> list[dict[str, str]]:
    """Return what is probed: for each, the label column by modality. The first is the main one."""
    return [dict.fromkeys(modalities, label) for label in study.labels] if study.own else [DIGIT]


def probes_of(study: StudySettings) -> tuple[str, ...]:
    """Return the names of the probes."""
    return study.probes or (("fc", "knn") if study.own else ("fc",))


def retrieval_of(study: StudySettings, modalities: Sequence[str]) -> str:
    """Return when retrieval is measured: never, end or rounds."""
    held_out = study.own and study.learn is not None and study.probe_on is None
    return study.retrieval or ("end" if held_out and len(modalities) > 1 else "never")


def measures_of(study: StudySettings, modalities: Sequence[str]) -> dict[str, Measure]:
    """Return the measurements by the name of the evaluation.

    Raises:
        ConfigError: two label columns would have the same name.
    """
    measures: dict[str, Measure] = {}
    splits = {"learn": list(study.learn or ()), "test": [split for split in (study.validation, study.test) if split]}
    for number, target in enumerate(targets_of(study, modalities)):
        for modality, column in target.items():
            ending = f"{modality}-{word_of(factor_of(column))}" if number else modality
            if study.probe_on is not None:
                protocols = [*probes_of(study), "clusters"]
                where: dict[str, Any] = {"data": data_name(modality, column)}
            else:
                protocols = [*probes_of(study)]
                where = {"modality": modality, "label": column} | splits
            for protocol in protocols:
                metric = {"fc": "probe", "clusters": None}.get(protocol, protocol)
                name = f"{metric or protocol}-{ending}"
                if name in measures:
                    raise ConfigError(
                        f"labels: two of {', '.join(study.labels)} would have the name {ending}: drop one."
                    )
                evaluation: dict[str, Any] = {"protocol": protocol, "when": "rounds", "every": study.every} | where
                measures[name] = Measure(metric, modality, factor_of(column), evaluation)
    if (when := retrieval_of(study, modalities)) != "never":
        column = targets_of(study, modalities)[0][modalities[0]]
        evaluation = {"protocol": RETRIEVAL, "when": when, "label": column} | splits
        measures[RETRIEVAL] = Measure(None, None, factor_of(column), evaluation)
    return measures


def data_name(modality: str, column: str) -> str:
    """Return the name of the data set to probe a label column on (`StudySettings.probe_on`)."""
    return f"{modality}-{word_of(factor_of(column))}"
