"""The cells of a study: each is an ordinary run with its own corpus of digits."""

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shards.digits.settings import DigitsSettings
from shards.errors import ConfigError
from shards.store.files import write_text
from xdc_core.config.load import FILE_NAME, load_preset, parse_config, read_yaml
from xdc_core.config.schema import Config
from xdc_core.config.write import commented_yaml
from xdc_core.runs.run import Run
from xdc_core.study.settings import CONTENDERS, StudySettings, digits_settings

# The evaluation of every round's encoders: a linear head on frozen features, on both held-out splits.
PROBES = {
    f"probe-{modality}": {
        "protocol": "fc",
        "modality": modality,
        "when": "rounds",
        "label": label,
        "learn": ["train"],
        "test": ["validation", "test"],
    }
    for modality, label in (("video", "label"), ("audio", "label_spoken"))
}


@dataclass(frozen=True)
class Cell:
    """One run of a study. `variant`: the varied setting and its value. `videos`: the folder of its digits."""

    contender: str
    variant: dict[str, Any]
    draw: int
    seed: int
    run: Run
    digits: DigitsSettings
    videos: Path


def make_cells(study: StudySettings, root: Path) -> list[Cell]:
    """Return all cells, those of the first seed first, so that a study that is stopped early covers all contenders.

    Missing xdc.yaml files of runs are written.

    Raises:
        ConfigError: a setting is wrong, or an existing xdc.yaml of a run differs from the study.
    """
    return [
        _make_cell(study, root, contender, variant, seed)
        for seed, variant, contender in itertools.product(range(study.seeds), study.variants, study.contenders)
    ]


def _make_cell(study: StudySettings, root: Path, contender: str, variant: dict[str, Any], seed: int) -> Cell:
    draw = seed % study.draws
    of_digits = {name: value for name, value in variant.items() if name.startswith("digits.")}
    folder = "-".join([*_words(of_digits), f"draw{draw}"])
    name = "-".join([contender, *_words(variant), f"draw{draw}", f"seed{seed}"])
    config = _config(study, contender, variant, seed, folder)
    run = Run(root / "runs" / name, config)
    file = run.root / FILE_NAME
    if not file.exists():
        write_text(file, commented_yaml(config, f"A cell of the study {root.name}: {contender}, seed {seed}."))
    elif parse_config(read_yaml(file), str(file)) != config:  # Evaluations that were added later do not change the run.
        raise ConfigError(
            f"{file} differs from the study's settings. Choose another folder for this study, or move the run away."
        )
    return Cell(
        contender, variant, draw, seed, run, digits_settings(study, root, variant, draw), root / "digits" / folder
    )


def _words(variant: dict[str, Any]) -> Iterator[str]:
    for name, value in variant.items():
        yield re.sub(r"[^a-z0-9.]+", "-", f"{name.split('.')[-1]}{value}".lower()).strip("-")


def _config(study: StudySettings, contender: str, variant: dict[str, Any], seed: int, folder: str) -> Config:
    values = load_preset(study.preset)
    changes = study.change | variant | CONTENDERS[contender] | {"seed": seed}
    if study.rounds is not None:
        changes["rounds"] = study.rounds
    for name, value in changes.items():
        if name == "cluster.k" and isinstance(value, int | list | tuple):
            value = dict.fromkeys(("video", "audio", "joint"), value)
        if not name.startswith("digits."):
            _set(values, name, value)
    places = {"path": f"../../corpora/{folder}", "videos": f"../../digits/{folder}/manifest.csv"}
    _set(values, "corpus", values.get("corpus", {}) | places | {"learn_splits": ["train"]})
    _set(values, "evaluate", PROBES)
    _set(
        values, "report", {"examples": 0, "track": []}
    )  # A study has dozens of runs, whose own reports are rarely read.
    _set(values, "runs_on", values.get("runs_on", {}) | {"threads": 1})
    config = parse_config(values, f"the study's {contender}")
    if config.stop.when != "never":
        raise ConfigError("the study: stop.when must be never, for all runs of a study have the same number of rounds.")
    return config


def _set(values: dict[str, Any], name: str, value: Any) -> None:
    *parents, key = name.split(".")
    for parent in parents:
        values = values.setdefault(parent, {})
    values[key] = value
