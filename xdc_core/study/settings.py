"""What a study compares: contenders, seeds, draws of the corpus, and a setting that is varied."""

from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from shards.digits.settings import DigitsSettings
from shards.errors import ConfigError
from shards.section import Section
from xdc_core.config.load import parse_section, read_yaml

FILE_NAME = "study.yaml"

# Contender -> what its runs' configuration differs in. `scratch` has no run: it is round 0 of the others.
CONTENDERS: dict[str, dict[str, Any]] = {
    "supervised": {"method": "supervised"},
    "sdc": {"method": "sdc"},
    "mdc": {"method": "mdc"},
    "cdc": {"method": "cdc"},
    "xdc": {"method": "xdc"},
    "shuffled": {"method": "xdc", "train.shuffle_labels": True},
}
SCRATCH = "scratch"


class StudySettings(Section):
    """One study: every contender, with every value of `vary`, and every seed, with the same budget.

    A cell is one ordinary run on a corpus of audio-visual digits. Seed s uses draw s % draws of the corpus.
    """

    preset: str = Field("digits", description="where the runs' settings come from")
    speech: str | None = Field(
        None, description="recordings in the Free Spoken Digit layout; relative to this file; null: synthesised voices"
    )
    clips: int = Field(3000, ge=1, description="clips to learn from")
    validation_clips: int = Field(500, ge=1, description="clips on which everything is chosen")
    test_clips: int = Field(500, ge=1, description="clips on which what was chosen is measured")
    rounds: int | None = Field(None, ge=1, description="training rounds; null: the preset's")
    contenders: tuple[str, ...] = Field(tuple(CONTENDERS), min_length=1, description="which of the methods")
    seeds: int = Field(3, ge=1, description="runs of each")
    draws: int = Field(2, ge=1, description="corpora that they are spread over")
    vary: dict[str, tuple[Any, ...]] = Field(
        {},
        max_length=1,
        description="a setting of the runs (cluster.k, train.lr) or of the digits (digits.nuisance), and its values",
    )
    change: dict[str, Any] = Field({}, description="settings that all runs have otherwise than the preset, by name")

    @model_validator(mode="after")
    def _known(self) -> "StudySettings":
        unknown = [name for name in self.contenders if name not in CONTENDERS]
        if unknown:
            raise ValueError(f"contenders: {', '.join(unknown)} is unknown. There are: {', '.join(CONTENDERS)}")
        if any(not values for values in self.vary.values()):
            raise ValueError("vary: no values")
        if "supervised" in self.contenders and "digits.mismatched" in self.vary.keys() | self.change.keys():
            raise ValueError(
                "contenders: supervised learns the digit that is shown, which with digits.mismatched is not the one "
                "that is spoken: leave it out (--contenders xdc,shuffled)"
            )
        return self

    @property
    def variants(self) -> list[dict[str, Any]]:
        """The varied setting's values, one dictionary each; one empty dictionary where nothing is varied."""
        return [{name: value} for name, values in self.vary.items() for value in values] or [{}]


def load_study(root: Path) -> StudySettings:
    """Read and check a study's study.yaml."""
    file = root / FILE_NAME
    return parse_section(StudySettings, read_yaml(file), str(file))


def digits_settings(study: StudySettings, root: Path, variant: dict[str, Any], draw: int) -> DigitsSettings:
    """The digits of one draw. Raises ConfigError for a name or value that they do not have."""
    values: dict[str, Any] = {
        "clips": study.clips,
        "validation_clips": study.validation_clips,
        "test_clips": study.test_clips,
        "seed": draw,
        "speech": (root / study.speech).resolve() if study.speech else None,
    }
    for name, value in (study.change | variant).items():
        if name.startswith("digits."):
            values[name.removeprefix("digits.")] = value
    try:
        return DigitsSettings(**values)
    except ValueError as error:
        raise ConfigError(f"{root / FILE_NAME}: the digits cannot be made so: {error}") from error
