"""The settings of the rule that ends the rounds of a run early."""

from typing import Literal

from pydantic import Field

from shards.section import Section


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
        None, description="for validation: name in evaluate, of an evaluation of the corpus with when: rounds"
    )
    split: str = Field("validation", description="for validation: the split of that evaluation's `test` that counts")
    not_before: int = Field(1, ge=1, description="first round in which the rule may end the run")

    def used(self) -> dict[str, object]:
        """Return the settings that the rule uses, by name."""
        own = ("agreement",) if self.when == "agreement" else ("evaluation", "split")
        return {name: getattr(self, name) for name in ("when", "rounds", *own, "not_before")}
