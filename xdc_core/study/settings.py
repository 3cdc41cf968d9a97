"""The settings of a study: contenders, seeds, clips, measurements, and a varied setting."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from shards.command import command
from shards.section import Section
from shards.store.files import write_text
from xdc_core.config.evaluation import LayoutName, Name
from xdc_core.config.load import parse_section, read_yaml
from xdc_core.config.protocols import PROBES
from xdc_core.config.write import commented_yaml
from xdc_core.study.contenders import COMMON, CONTENDERS, DEFAULT, check_own

FILE_NAME = "study.yaml"
FEWEST_SEEDS = 3
MAIN = ("xdc",)
NOTES = """A study{of}. Before its first run change it as you like. Later, contenders, seeds, rounds and
measurements can be added; for other settings make another study.
{command} does what is missing of it, and writes table.md, figure.svg and results.parquet."""


def _seeds(given: Any) -> Any:
    numbers = given.values() if isinstance(given, dict) else [given]
    if not all(isinstance(number, int) and not isinstance(number, bool) and number >= 1 for number in numbers):
        raise ValueError(f"{given} is not a number of runs (from 1), nor such numbers by contender")
    return given


class StudySettings(Section):
    """One study: every contender, with every value of `vary`, and every seed, with the same budget.

    A cell is one ordinary run: on a corpus of audio-visual digits (seed s uses draw s % draws), or on your own corpus.
    """

    preset: str | None = Field(
        None, description="preset of the runs; null: digits, and tiny on a corpus of your own (videos or corpus)"
    )
    speech: str | None = Field(
        None,
        description="digits: recordings in the Free Spoken Digit layout; relative to this file; null: synthesised "
        "voices",
    )
    clips: int = Field(3000, ge=1, description="digits: clips to learn from")
    validation_clips: int = Field(500, ge=1, description="digits: clips for choosing settings")
    test_clips: int = Field(500, ge=1, description="digits: clips for the final measurement")
    draws: int = Field(2, ge=1, description="digits: number of corpora over which the seeds are distributed")
    videos: str | None = Field(
        None, description="your own videos instead of digits: a folder or a manifest; relative to this file"
    )
    layout: LayoutName | None = Field(
        None, description="videos is a data set in this layout; null: a folder or a manifest"
    )
    corpus: str | None = Field(
        None, description="your own corpus instead of digits: a directory of clips that are cut; relative to this file"
    )
    labels: tuple[str, ...] = Field(
        ("label",), min_length=1, description="label columns to probe; supervised learns the first. Not for digits"
    )
    learn: tuple[str, ...] | None = Field(
        ("train",), min_length=1, description="splits to learn from; null: all clips (needs probe_on)"
    )
    validation: str | None = Field("validation", description="split for choosing settings; null: there is none")
    test: str = Field("test", description="split for the final measurement")
    probe_on: str | None = Field(
        None,
        description="labelled recordings to probe on instead of the clips of the runs: the root of a data set, or a "
        "manifest; relative to this file",
    )
    probe_layout: LayoutName = Field("manifest", description="layout of probe_on")
    probe_settings: dict[str, Any] = Field(
        {"views": 1}, description="settings of the data set probe_on, as in datasets of xdc.yaml; one view: the centre"
    )
    probes: tuple[str, ...] | None = Field(
        None, min_length=1, description="probes of frozen features; null: fc, on a corpus of your own fc and knn"
    )
    every: int = Field(1, ge=1, description="probe in every so many rounds only, and after the last one")
    retrieval: Literal["never", "end", "rounds"] | None = Field(
        None,
        description="retrieval of sound by picture and of picture by sound: never, untrained and after the last round, "
        "or in every round; null: end on a corpus of your own with splits and several modalities and without "
        "probe_on, else never",
    )
    rounds: int | None = Field(None, ge=1, description="training rounds; null: the preset's")
    contenders: tuple[str, ...] = Field(
        DEFAULT, min_length=1, description=f"what is compared, of: {', '.join(CONTENDERS)}, and own_contenders"
    )
    own_contenders: dict[Name, dict[str, Any]] = Field(
        {}, description="further contenders: name -> settings in which it differs from the preset and change"
    )
    main: tuple[str, ...] = Field(
        MAIN, description="contenders whose lowest run is compared with the highest of all others without labels"
    )
    seeds: Annotated[int | dict[str, int], BeforeValidator(_seeds)] = Field(
        FEWEST_SEEDS, description="runs per contender: a number, or numbers by contender such as {xdc: 5, default: 3}"
    )
    first_seed: int = Field(
        0, ge=0, description="seed of every contender's first run; several machines can share the seeds of a comparison"
    )
    vary: dict[str, tuple[Any, ...]] = Field(
        {},
        max_length=1,
        description="a setting of the runs (cluster.k, train.lr) or of the digits (digits.nuisance), and its values",
    )
    change: dict[str, Any] = Field({}, description="settings of all runs that differ from the preset, by name")

    @model_validator(mode="after")
    def _known(self) -> "StudySettings":
        check_own(self.own_contenders)
        there = {**CONTENDERS, **self.own_contenders}
        by_seed = set(self.seeds) - {"default"} if isinstance(self.seeds, dict) else set()
        for what, names in (("contenders", self.contenders), ("main", self.main), ("seeds", sorted(by_seed))):
            if unknown := [name for name in names if name not in there]:
                raise ValueError(f"{what}: {', '.join(unknown)} is unknown. There are: {', '.join(there)}")
            absent = [name for name in names if name not in self.rows]
            if absent and names != MAIN:  # The default is not written by the user.
                raise ValueError(
                    f"{what}: {', '.join(absent)} is not compared. Add it to contenders ({', '.join(self.rows)}), or "
                    "leave it out here"
                )
        if any(name not in PROBES for name in self.probes or ()):
            raise ValueError(f"probes: {', '.join(self.probes or ())}, but there are only: {', '.join(PROBES)}")
        return self

    @model_validator(mode="after")
    def _varied(self) -> "StudySettings":
        for name, values in self.vary.items():
            if not values:
                raise ValueError("vary: no values")
            users = [user for user, settings in self.rows.items() if name in settings]
            if name in COMMON or users:
                of_whom = f" of {', '.join(users)}" if users else ""
                raise ValueError(f"vary: {name} is a setting{of_whom} that makes the contenders what they are")
        if "supervised" in self.contenders and "digits.mismatched" in self.vary.keys() | self.change.keys():
            raise ValueError(
                "contenders: supervised learns the digit that is shown, which with digits.mismatched is not the one "
                "that is spoken: leave it out (--contenders xdc,shuffled)"
            )
        return self

    @model_validator(mode="after")
    def _one_corpus(self) -> "StudySettings":
        fields = type(self).model_fields
        for_digits = ("speech", "clips", "validation_clips", "test_clips", "draws")
        for_own = ("layout", "labels", "learn", "validation", "test", "probe_on", "probe_settings")
        changed = [
            name for name in (for_digits if self.own else for_own) if getattr(self, name) != fields[name].default
        ]
        changed += [name for name in (*self.vary, *self.change) if self.own and name.startswith("digits.")]
        if changed:
            kind = "digits" if self.own else "a corpus of your own (videos or corpus)"
            raise ValueError(f"{', '.join(changed)}: only for {kind}, which this study does not have")
        if self.corpus is not None and (self.videos or self.layout):
            raise ValueError("corpus is a directory of clips that are cut already: leave out videos and layout")
        if self.learn is None and self.own and (self.probe_on is None or self.retrieval not in (None, "never")):
            raise ValueError(
                "learn: without splits nothing is held out to be probed: name splits, or labelled recordings to probe "
                "on (probe_on), with retrieval: never"
            )
        return self

    @property
    def own(self) -> bool:
        """Return whether the study is on a corpus of the user's own, not on digits."""
        return self.videos is not None or self.corpus is not None

    @property
    def rows(self) -> dict[str, dict[str, Any]]:
        """Return the settings of every contender by its name: those of `contenders`, then the other own ones."""
        there = {**CONTENDERS, **self.own_contenders}
        return {name: there[name] for name in dict.fromkeys((*self.contenders, *self.own_contenders))}

    @property
    def variants(self) -> list[dict[str, Any]]:
        """Return the varied setting's values, one dictionary each; one empty dictionary if nothing is varied."""
        return [{name: value} for name, values in self.vary.items() for value in values] or [{}]

    def seeds_of(self, contender: str) -> int:
        """Return the number of a contender's runs, for every value of `vary`."""
        if isinstance(self.seeds, int):
            return self.seeds
        return self.seeds.get(contender, self.seeds.get("default", FEWEST_SEEDS))


def save_study(root: Path, study: StudySettings) -> None:
    """Write a study's study.yaml, unless it has these settings."""
    if (root / FILE_NAME).exists() and load_study(root) == study:
        return
    of = " on a corpus of your own" if study.own else " of audio-visual digits"
    notes = NOTES.format(of=of, command=command("xdc", "compare", root))
    write_text(root / FILE_NAME, commented_yaml(study, notes))


def load_study(root: Path) -> StudySettings:
    """Read and check a study's study.yaml."""
    file = root / FILE_NAME
    return parse_section(StudySettings, read_yaml(file), str(file))
