"""The settings of the rule that ends the rounds of a run early."""

from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import Field

from shards.section import Section
from shards.sources.split import split_name
from xdc_core.config.evaluation import CORPUS, EvaluationSettings

TEST = "test"


class StopSettings(Section):
    """A rule that ends the rounds early, before the training of the round in which it holds. It reads no test labels.

    `when` is `agreement` or `validation`; the settings of the other one are not used.
    """

    when: Literal["never", "agreement", "validation"] = Field(
        "never",
        description="agreement: the clusters of all label sources agree with those of the round before; validation: an "
        "evaluation has stopped improving",
    )
    rounds: int = Field(
        2, ge=1, description="number of successive rounds with this agreement, or without a better evaluation"
    )
    agreement: float = Field(0.8, gt=0, le=1, description="for agreement: least NMI with the round before. Unverified")
    evaluation: str | None = Field(
        None, description="for validation: name in evaluate, of an evaluation of the corpus with when: rounds, every: 1"
    )
    split: str = Field("validation", description="for validation: the split of that evaluation's `test` that counts")
    not_before: int = Field(1, ge=1, description="first round in which the rule may end the run")

    def used(self) -> dict[str, object]:
        """Return the settings that the rule uses, by name."""
        own = ("agreement",) if self.when == "agreement" else ("evaluation", "split")
        return {name: getattr(self, name) for name in ("when", "rounds", *own, "not_before")}


def check_rule(rule: StopSettings, clustered: Sequence[str], evaluations: Mapping[str, EvaluationSettings]) -> None:
    """Raise ValueError if a rule has nothing to read, or would read test labels.

    clustered: the label sources of the run that are clusters.
    """
    if rule.when == "agreement" and not clustered:
        raise ValueError("stop.when is agreement, but the method has no clusters: set it to never")
    if rule.when == "validation":
        _check_evaluation(rule, evaluations)


def too_late(rule: StopSettings, rounds: int) -> str:
    """Return a warning if a rule cannot end a run of so many rounds before its last training; otherwise nothing.

    Both rules compare a round with rounds before it: none can hold before round `rule.rounds`.
    """
    first = max(rule.rounds, rule.not_before)
    if rule.when == "never" or first < rounds:
        return ""
    return (
        f"stop has no effect: with stop.rounds {rule.rounds} and stop.not_before {rule.not_before} it can end a run in "
        f"round {first} at the earliest, and this one has no training after round {rounds - 1} in any case (rounds: "
        f"{rounds})."
    )


def _check_evaluation(rule: StopSettings, evaluations: Mapping[str, EvaluationSettings]) -> None:
    if split_name(rule.split) == TEST:
        raise ValueError("stop.split is test, but test labels must not decide how long a run trains")
    evaluation = evaluations.get(rule.evaluation or "")
    if evaluation is None:
        there = ", ".join(evaluations) or "none"
        raise ValueError(f"stop.evaluation is {rule.evaluation!r}, but it must be a name in evaluate: {there}")
    in_every_round = evaluation.when == "rounds" and evaluation.every == 1
    if evaluation.data != CORPUS or not in_every_round or rule.split not in evaluation.test:
        raise ValueError(
            f"stop.evaluation: {rule.evaluation} must have data: {CORPUS}, when: rounds, every: 1, and stop.split "
            f"({rule.split}) in test. It has data: {evaluation.data}, when: {evaluation.when}, every: "
            f"{evaluation.every}, test: [{', '.join(evaluation.test)}]"
        )
    if TEST in map(split_name, evaluation.learn):
        raise ValueError(
            f"stop.evaluation: {rule.evaluation} learns from the split test, but test labels must not decide how long "
            "a run trains: take it out of learn, or name another evaluation"
        )
    if len(evaluation.test) > 1 and rule.split == evaluation.test[-1]:
        raise ValueError(
            f"stop.split is {rule.split}, the last split in test of evaluate.{rule.evaluation}, which tables show as "
            "the result: it must not decide how long a run trains. Name another of its splits, or change their order"
        )
