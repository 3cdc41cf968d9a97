"""The cells of a study: each is an ordinary run."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shards.digits.settings import DigitsSettings
from shards.errors import ConfigError
from shards.store.files import write_text
from shards.store.manifest import MANIFEST, read_manifest
from xdc_core.config.load import FILE_NAME, load_preset, parse_config, read_yaml
from xdc_core.config.schema import Config
from xdc_core.config.write import commented_yaml
from xdc_core.graph.stages import all_nodes, evaluation_nodes
from xdc_core.runs.node import Node
from xdc_core.runs.run import Run
from xdc_core.study.corpora import corpus_section, data_sections, digits_settings
from xdc_core.study.measures import RETRIEVAL, Measure, measures_of, word_of
from xdc_core.study.settings import StudySettings

# A study has dozens of runs, whose own reports are rarely read.
REPORT = {"examples": 0, "track": []}


@dataclass(frozen=True)
class Cell:
    """One run of a study. variant: the varied setting and its value. measures: by the name of the evaluation.

    digits, videos: the settings and the folder of its digits; None on a corpus of the user's own.
    """

    contender: str
    variant: dict[str, Any]
    draw: int
    seed: int
    run: Run
    measures: dict[str, Measure]
    digits: DigitsSettings | None = None
    videos: Path | None = None


def make_cells(study: StudySettings, root: Path) -> list[Cell]:
    """Return all cells, those of the first seed first, so that a study that is stopped early covers all contenders.

    Missing xdc.yaml files of runs are written, and those to which the study has added rounds or measurements.

    Raises:
        ConfigError: a setting is wrong, or an existing xdc.yaml of a run differs from the study.
    """
    seeds = range(max(map(study.seeds_of, study.rows)))
    return [
        _make_cell(study, root, contender, variant, seed)
        for seed, variant, contender in itertools.product(seeds, study.variants, study.rows)
        if seed < study.seeds_of(contender)
    ]


def _make_cell(study: StudySettings, root: Path, contender: str, variant: dict[str, Any], seed: int) -> Cell:
    draw = 0 if study.own else seed % study.draws
    of_draw = [] if study.own else [f"draw{draw}"]
    kind = "corpus." if study.own else "digits."
    of_clips = {name: value for name, value in (variant | study.rows[contender]).items() if name.startswith(kind)}
    folder = "-".join([*_words(of_clips), *of_draw]) or "clips"
    name = "-".join([contender, *_words(variant), *of_draw, f"seed{seed}"])
    values = _values(study, root, contender, variant, seed, folder)
    measures = measures_of(study, parse_config(values, f"the study's {contender}").modalities)
    values["evaluate"] = {name: measure.evaluation for name, measure in measures.items()}
    config = parse_config(values, f"the study's {contender}")
    if config.stop.when != "never":
        raise ConfigError("the study: stop.when must be never, for all runs of a study have the same number of rounds.")
    run = Run(root / "runs" / name, config)
    _write_config(run, f"A cell of the study {root.name}: {contender}, seed {seed}.")
    if study.own:
        return Cell(contender, variant, draw, seed, run, measures)
    digits = digits_settings(study, root, variant, draw)
    return Cell(contender, variant, draw, seed, run, measures, digits, root / "digits" / folder)


def _words(variant: dict[str, Any]) -> Iterator[str]:
    for name, value in variant.items():
        yield word_of(f"{name.split('.')[-1]}{value}")


def _write_config(run: Run, notes: str) -> None:
    """Write a run's xdc.yaml. One that differs only in its measurements, or has fewer rounds, is replaced.

    Raises:
        ConfigError: the existing one differs in another setting.
    """
    file = run.root / FILE_NAME
    if file.exists():
        there = parse_config(read_yaml(file), str(file))
        if there == run.config:
            return
        added: dict[str, Any] = {"evaluate": run.config.evaluate, "datasets": run.config.datasets}
        added["rounds"] = max(there.rounds, run.config.rounds)
        if there.model_copy(update=added) != run.config:
            raise ConfigError(
                f"{file} differs from the study's settings. Choose another folder for this study, or move the run away."
            )
    write_text(file, commented_yaml(run.config, notes))


def _values(
    study: StudySettings, root: Path, contender: str, variant: dict[str, Any], seed: int, folder: str
) -> dict[str, Any]:
    """Return the values of a run's xdc.yaml, without its evaluations."""
    values = load_preset(study.preset or ("tiny" if study.own else "digits"))
    changes = ({"truth": study.labels[0]} if study.own else {}) | study.change | variant | study.rows[contender]
    changes["seed"] = seed
    if study.rounds is not None:
        changes["rounds"] = study.rounds
    for name, value in changes.items():
        if name == "cluster.k" and not isinstance(value, dict):
            value = dict.fromkeys(("video", "audio", "joint"), value)
        if not name.startswith("digits."):
            _set(values, name, value)
    modalities = values.get("modalities", ("video", "audio"))
    _set(values, "corpus", corpus_section(study, root, folder, values.get("corpus", {}), changes))
    _set(values, "datasets", data_sections(study, root, modalities))
    _set(values, "report", REPORT)
    _set(values, "runs_on", values.get("runs_on", {}) | {"threads": 1})
    return values


def _set(values: dict[str, Any], name: str, value: Any) -> None:
    *parents, key = name.split(".")
    for parent in parents:
        values = values.setdefault(parent, {})
    values[key] = value


def nodes_of(cell: Cell) -> list[Node]:
    """Return the nodes of a cell, each after its inputs: those of its run, and the retrieval of untrained encoders."""
    config: Config = cell.run.config
    nodes = list(all_nodes(config))
    if RETRIEVAL in cell.measures:
        nodes += evaluation_nodes(config, [RETRIEVAL], 0)
    return sorted(dict.fromkeys(nodes), key=lambda node: node.round or 0)


def rounds_done(cell: Cell) -> int | None:
    """Return the last finished round of a cell, counted from 0; None if there is none."""
    run = cell.run
    reports = [node for node in nodes_of(cell) if node.stage == "report"]
    done = [node.round for node in reports if read_manifest(run.directory(node)) is not None]
    return max((number for number in done if number is not None), default=None)


def is_finished(cell: Cell) -> bool:
    """Return whether all nodes of a cell are finished."""
    return all((cell.run.directory(node) / MANIFEST).exists() for node in nodes_of(cell))
